"""The study of scaled neurons: its plan, its tables, and the whole of it in small."""

import json

import numpy as np
import pytest

from normjax.studies import dswn_neuron
from normjax.studies.dswn_neuron import CONTENDERS, RATES, SEEDS, best_rate, plan, table
from normjax.studies.rates import fastest_rate, steps_to
from normjax.studies.report import carry_out_study

pytest_plugins = ["real_data", "training_fixtures"]


def run(steps, rate=0.03, accuracy=0.98):
    """A run that is at 97 % after so many steps; None never gets there."""
    curve = [[step, 0.98 if steps is not None and step >= steps else 0.9] for step in range(10, 1001, 10)]
    config = {"optimizer": {"learning_rate": rate}}
    return {
        "curve": curve,
        "test": {"accuracy": accuracy},
        "validation_accuracy": accuracy,
        "parameters": 400_000,
        "steps": 1000,
        "config": config,
    }


def tuned():
    """The second rate is the fastest for all, the third has the best accuracy."""
    return {
        f"tuning/{name}/{rate:g}": run(100 if rate == RATES[1] else 300, accuracy=0.99 if rate == RATES[2] else 0.97)
        for name in CONTENDERS
        for rate in RATES
    }


def compared(steps):
    results = tuned()
    for name, counts in steps.items():
        for seed, count in zip(SEEDS, counts, strict=True):
            results[f"comparison/{name}/{seed}"] = run(count, RATES[1])
    return results


def test_the_step_of_an_accuracy_is_the_first_that_has_it():
    assert steps_to([[10, 0.5], [20, 0.98], [30, 0.96]], 0.97) == 20
    assert steps_to([[10, 0.5]], 0.97) is None


def test_the_fastest_rate_is_taken_and_the_best_where_none_arrives():
    results = {"a": run(300, accuracy=0.99), "b": run(200, accuracy=0.98), "c": run(None, accuracy=0.995)}
    assert fastest_rate(results, "abc", (1.0, 2.0, 3.0), 0.97) == 2.0
    results = {"a": run(None, accuracy=0.6), "b": run(None, accuracy=0.7), "c": {"diverged": "step 3"}}
    assert fastest_rate(results, "abc", (1.0, 2.0, 3.0), 0.97) == 2.0
    assert fastest_rate({"a": run(10)}, "ab", (1.0, 2.0), 0.97) is None


def test_rates_are_chosen_before_and_on_another_seed():
    assert {trial.key.split("/")[0] for trial in plan({})} == {"tuning"}
    trials = {trial.key: trial.config for trial in plan(tuned())}
    assert best_rate(tuned(), "neuron") == RATES[1]
    assert len(trials) == len(CONTENDERS) * (len(RATES) + len(SEEDS))
    seeds = {key.split("/")[0]: set() for key in trials}
    for key, config in trials.items():
        seeds[key.split("/")[0]].add(config.seed)
    assert seeds == {"tuning": {0}, "comparison": {1, 2, 3}}
    # Contenders differ in their norms and nothing else.
    plain = trials["comparison/none/1"]
    for name in CONTENDERS:
        config = trials[f"comparison/{name}/1"]
        assert config.model_copy(update={"norm": plain.norm, "weight_norm": plain.weight_norm}) == plain


def test_tables_are_means_and_paired_differences_of_the_steps():
    steps = dict.fromkeys(CONTENDERS, (200, 220, 240)) | {"neuron": (100, 120, 110), "none": (300, None, 500)}
    text = table(compared(steps))
    width = 4.302653 * np.std([-100, -100, -130], ddof=1) / np.sqrt(3)
    assert (
        f"| batch norm | 0.01 | 10.00 ± 0.00 | 220.00 ± 49.68 | 220.00 ± 49.68 | -110.00 ± {width:.2f} | 98.00 ± 0.00 |"
        in text
    )
    assert "| reached by 2 of 3 seeds | reached by 2 of 3 seeds |  |" in text
    assert "NM takes fewer steps than each of the others" in text
    steps["weight_norm"] = (90, 100, 110)
    assert "NM does not take fewer steps than: weight norm (claimed: fewer than each)." in table(compared(steps))


def test_nothing_is_concluded_before_a_seed_has_all_contenders():
    assert table(tuned()).startswith("Inconclusive")


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_whole_study_in_small(real_data_dir, tmp_path):
    carry_out_study("dswn-neuron", tmp_path, data_dir=real_data_dir, jobs=0, budget=0.01)
    results = json.loads((tmp_path / "dswn-neuron-0.01.json").read_text())
    assert len(results) == len(CONTENDERS)
    assert all(np.isfinite(result["test"]["loss"]) for result in results.values())
    assert (tmp_path / "dswn-neuron-0.01.md").read_text() == table(results)
    assert (tmp_path / "dswn-neuron-0.01-accuracy.png").stat().st_size > 10_000
    assert not [trial for trial in dswn_neuron.plan(results, 0.01) if trial.key not in results]


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_has_its_norms(name):
    config = {trial.key: trial.config for trial in plan(tuned())}[f"comparison/{name}/1"]
    assert (config.norm.name == "batch_norm") == (name == "batch_norm")
    assert config.weight_norm.options.get("measure") == ("neuron" if name == "neuron" else None)
