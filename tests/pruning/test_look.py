"""What the neurons of a run are worth, and what those of a layer see."""

import numpy as np
import pytest
from PIL import Image
from run_cases import run_config

from normjax.errors import UserError
from normjax.pruning import debiased, layer_bias, score, trace
from normjax.pruning.look import rank_neurons, see_neurons
from normjax.training.config import ModelConfig, NormConfig
from normjax.training.evaluate import restore_network
from normjax.training.loop import train

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "run"
    train(run_config(model=ModelConfig(name="convnet", widths=(6, 8), dense=(16,))), path)
    return path


def test_the_bias_is_that_of_the_scores_of_the_network(trained):
    told = rank_neurons(trained, score="l2", debias="mean")
    session, network, step = restore_network(trained)
    x = np.zeros((1, 8, 8, 1), np.float32)
    raw = score(trace(session.model, network, x, train=False), network, "l2")
    assert told["bias"] == {"none": layer_bias(raw), "mean": layer_bias(debiased(raw, "mean"))}
    # Norms of kernels of so different fan-in do not mix: that is what the debiasing is for.
    assert told["bias"]["mean"] < 0.2 < told["bias"]["none"]
    assert (told["step"], [layer["neurons"] for layer in told["layers"]]) == (step, [6, 6, 8, 8, 16])
    # The layer with the largest norms stands above the others.
    best = max(told["layers"], key=lambda layer: layer["median_rank"]["none"])["name"]
    assert best == max(raw, key=lambda name: np.median(raw[name]))
    with Image.open(told["file"]) as picture:
        assert picture.width > 1000


def test_scores_of_activations_are_measured_on_training_images(trained, tmp_path):
    told = rank_neurons(trained, score="apoz", debias="zscore", output=tmp_path / "apoz.png")
    assert 0 <= told["bias"]["zscore"] <= 1
    assert (tmp_path / "apoz.png").stat().st_size > 10_000


def test_a_layer_sees_pictures_of_the_image(trained):
    told = see_neurons(trained, "conv0_1", steps=3)
    assert told["neurons"] == 6
    assert all(first < second and 0.95 < alike <= 1 for first, second, alike in told["alike"])
    with Image.open(trained / "seen_conv0_1.png") as picture:
        assert picture.width > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "conv9"}, "group='conv9' is no group of neurons of this network; use conv0_0, conv0_1"),
        ({"layer": "conv0_0", "image": 360}, "image=360 is not there; use 0 to 358"),
        ({"layer": "conv0_0", "steps": 0}, "steps=0: use 1 or more"),
    ],
)
def test_what_cannot_be_seen_is_said(trained, options, message):
    with pytest.raises(UserError, match=message):
        see_neurons(trained, **options)


def test_a_picture_that_cannot_be_written_is_said_before_any_work(trained, tmp_path):
    for output, message in (
        (tmp_path / "ranks.xyz", r"ends in \.png, \.pdf, \.svg"),
        (tmp_path / "no" / "r.png", "no directory"),
    ):
        with pytest.raises(UserError, match=message):
            rank_neurons(trained, score="l2", debias="mean", output=output)
        with pytest.raises(UserError, match=message):
            see_neurons(trained, "conv0_0", output=output)


def test_a_score_that_does_not_fit_the_network_is_said(tmp_path):
    train(run_config(norm=NormConfig(name="none")), tmp_path / "run")
    with pytest.raises(UserError, match="score=bn_gamma: no norm with a scale is behind dense0; use l2"):
        rank_neurons(tmp_path / "run", score="bn_gamma", debias="mean")
