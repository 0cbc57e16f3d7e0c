"""What a search decides by, without running one."""

from typing import get_args
from unittest.mock import Mock

import numpy as np
import pytest
from run_cases import run_config

from normjax.data import load_dataset
from normjax.data.source import Subset
from normjax.inference.shrink import Size
from normjax.pruning import DEBIASES, SCORES, search
from normjax.pruning import run as pruning_run
from normjax.pruning.config import PruneConfig
from normjax.pruning.evidence import images_and_classes
from normjax.pruning.search import Search
from normjax.training.config import OptimizerConfig


def test_every_score_and_debiasing_can_be_asked_for():
    fields = PruneConfig.model_fields
    assert set(get_args(fields["score"].annotation)) == set(SCORES)
    assert set(get_args(fields["debias"].annotation)) == set(DEBIASES)


@pytest.mark.parametrize(
    ("share", "times", "taken"), [(1.2, (1.1, 1.0), False), (1.2, (0.9, 1.0), True), (0.9, (0.95, 1.0), False)]
)
def test_what_is_taken_is_faster_and_by_more_than_it_loses(share, times, taken, monkeypatch):
    # One that was larger and slower, though by less than it was larger, was taken.
    monkeypatch.setattr(search, "milliseconds", lambda *_: [{"128": time} for time in times])
    monkeypatch.setattr(search, "Shrunken", lambda *_: Mock())
    cut, uncut = {"a": (0,) * 8}, {"a": (0,) * 9}
    sizes = {8: Size(1, round(1000 * share)), 9: Size(1, 1000)}
    there = Mock(options=PruneConfig(max_drop=0.1), features={"a": 1}, _size=lambda kept: sizes[len(kept["a"])])
    assert (Search._faster(there, cut, uncut) == cut) == taken
    assert there.cut.even == 1


def test_fine_tuning_begins_at_a_fifth_of_the_rate_of_the_run():
    config = run_config(optimizer=OptimizerConfig(learning_rate=0.001))
    assert search.fine_tuning(config, PruneConfig(max_drop=0.1), 1.0).optimizer.learning_rate == pytest.approx(0.0002)


def test_scores_of_data_see_all_classes_of_sorted_data():
    # The pictures of a folder lie sorted by class, and the first thousand were of one.
    dataset = load_dataset(run_config().data, seed=0, data_dir=None)
    train = dataset.train
    in_order = dataset._replace(train=Subset(train, np.argsort(train.labels, kind="stable")))
    labels = np.concatenate([found for _, found in images_and_classes(in_order, 60, 20)])
    assert len(labels) == 60
    assert set(labels.tolist()) == set(range(10))


def test_whether_a_target_is_met_is_about_the_network_at_the_end():
    accepted = Mock(accepted=True, accuracy=0.93)
    found = Mock(target=0.93, rounds=[accepted])
    assert not pruning_run._target(PruneConfig(target_accuracy=0.93), found, 0.85)["met"]
    assert pruning_run._target(PruneConfig(target_accuracy=0.93), found, 0.94)["met"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_drop": 0.1, "per_cost": True}, "per_cost=True divides by what a neuron brings towards keep_macs or"),
        ({"keep_macs": 0.5, "per_cost": True, "debias": "zscore"}, "would divide negative scores; use minmax or rank"),
        ({}, "no target given; give one of target_accuracy, max_drop, keep_macs, keep_params"),
        ({"max_drop": 0.1, "keep_macs": 0.5}, "max_drop and keep_macs given; give one of"),
        ({"target_accuracy": 0.9, "keep_macs": 0.5, "keep_params": 0.5}, "or the last two"),
        ({"keep_macs": 1.5}, "keep_macs"),
        ({"max_drop": 0.1, "step": 0.005}, r"min_step=0\.01 must not be above step=0\.005"),
        ({"max_drop": 0.1, "score": "hrank"}, "score"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PruneConfig(**options)
