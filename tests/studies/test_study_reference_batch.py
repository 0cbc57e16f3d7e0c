"""The study of reference batches: its plan, its tables, and the whole of it in small."""

import json
from pathlib import Path

import numpy as np
import pytest

from normjax.studies import STUDIES, find_study, reference_batch
from normjax.studies.reference_batch import CONTENDERS, RATES, STREAMS, best_rate, plan, table
from normjax.studies.report import carry_out_study
from normjax.studies.trials import read_results

pytest_plugins = ["real_data", "training_fixtures"]

RESULTS = Path(__file__).parents[2] / "results"
BASE = {"steps": 2110, "parameters": 138_618, "config": {"batch_size": 64, "data": {"train_split": "train"}}}


def run(accuracy, examples=10_000):
    return {**BASE, "test": {"accuracy": accuracy, "examples": examples}, "validation_accuracy": accuracy}


def tuned():
    """The learning rates chosen: the second for all."""
    return {
        f"tuning/{stream}/{contender}/{rate:g}": run(0.6 if rate == RATES[1] else 0.5)
        for stream in ("shuffled", "two classes")
        for contender in CONTENDERS
        for rate in RATES
    }


def compared(seeds=(0, 1, 2)):
    """Made-up accuracies that tell contenders, streams and seeds apart."""
    results = tuned()
    for i, contender in enumerate(CONTENDERS):
        for j, stream in enumerate(STREAMS):
            for seed in seeds if stream != "one class" else seeds[:1]:
                results[f"comparison/{stream}/{contender}/{seed}"] = run(0.8 - 0.01 * i - 0.1 * j + 0.002 * seed**2)
    return results


def test_the_rates_are_chosen_before_anything_is_compared():
    assert {trial.key.split("/")[0] for trial in plan({})} == {"tuning"}
    assert len(plan({})) == 2 * len(CONTENDERS) * len(RATES)
    some = {key: result for key, result in tuned().items() if "two classes" not in key}
    compared_now = [trial.key for trial in plan(some) if trial.key.startswith("comparison")]
    assert {key.split("/")[1] for key in compared_now} == {"shuffled"}


def test_every_contender_has_its_best_rate_and_the_same_images():
    results = tuned()
    results["tuning/two classes/mixed/0.2"] = run(0.7)
    results["tuning/two classes/fixed/0.06"] = {"diverged": "step 3"}
    assert best_rate(results, "one class", "mixed") == 0.2
    assert best_rate(results, "two classes", "fixed") == 0.02
    trials = {trial.key: trial.config for trial in plan(results) if trial.key.startswith("comparison")}
    assert len(trials) == len(CONTENDERS) * (3 + 3 + 1)
    model = trials["comparison/shuffled/batch_norm/0"].model
    for config in trials.values():
        assert (config.epochs, config.batch_size, config.model) == (3.0, 64, model)
    assert {config.seed for config in trials.values()} == {0, 1, 2}
    # The seeds of a contender differ in nothing else.
    first, second = (trials[f"comparison/shuffled/virtual/{seed}"] for seed in (0, 1))
    assert first == second.model_copy(update={"seed": 0})


def test_tables_are_means_and_paired_differences_of_the_raw_numbers():
    text = table(compared())
    values = 80 + np.array([0.0, 0.2, 0.8])
    width = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert f"| BatchNorm | {values.mean():.2f} ± {width:.2f} | {values.mean() - 10:.2f} ± {width:.2f} | 60.00 |" in text
    # GroupNorm is two contenders further: 2 points on each seed, so the difference has no width.
    assert "| GroupNorm | -2.00 ± 0.00 |  | -2.00 ± 0.00 |" in text
    assert "138,618 parameters" in text
    assert "Inconclusive" not in text


def test_a_baseline_that_is_too_weak_concludes_nothing():
    weak = compared()
    for key in weak:
        if "comparison/shuffled" in key:
            weak[key] = run(0.74)
    assert table(weak).startswith("Inconclusive (wanted: 75 %")


def test_runs_that_diverged_count_as_nothing():
    results = compared()
    results["comparison/two classes/fixed/1"] = {"diverged": "step 3: 10 steps in a row were not finite"}
    line = next(line for line in table(results).splitlines() if line.startswith("| ReferenceBatchNorm, fixed"))
    assert f"{np.mean([65.0, 0.0, 65.8]):.2f} ±" in line


# Studies that have not begun have no numbers.
@pytest.mark.parametrize("name", [name for name in STUDIES if (RESULTS / f"{name}.json").exists()])
def test_the_tables_that_are_shown_are_those_of_the_numbers_that_are_kept(name):
    results = read_results(RESULTS / f"{name}.json")
    assert results
    assert (RESULTS / f"{name}.md").read_text() == find_study(name).table(results)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_whole_study_in_small(real_data_dir, tmp_path):
    # A hundredth of the budget: every stream, tables and figures.
    carry_out_study("reference-batch", tmp_path, data_dir=real_data_dir, jobs=0, budget=0.01)
    results = json.loads((tmp_path / "reference-batch-0.01.json").read_text())
    assert len(results) == 4 + 2 * (len(STREAMS) - 1)
    assert all("diverged" in result or np.isfinite(result["test"]["loss"]) for result in results.values())
    assert (tmp_path / "reference-batch-0.01.md").read_text() == table(results)
    layers = results["comparison/two classes/virtual/0"]["probe"]
    assert list(layers) == ["norm0_0", "norm0_1", "norm1_0", "norm1_1"]
    assert all(np.isfinite(layer[kind][of]) for layer in layers.values() for kind in layer for of in layer[kind])
    for figure in ("accuracy", "drift"):
        assert (tmp_path / f"reference-batch-0.01-{figure}.png").stat().st_size > 10_000
    # Nothing is left to do.
    assert not [trial for trial in reference_batch.plan(results, 0.01) if trial.key not in results]
