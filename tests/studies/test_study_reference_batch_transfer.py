"""The study of transfer to detection: its plan, its tables, and the whole of it in small."""

import json

import numpy as np
import pytest

from normjax.studies.reference_batch_transfer import BACKBONES, RATES, best_rate, plan, table
from normjax.studies.report import carry_out_study

pytest_plugins = ["real_data", "training_fixtures"]


def tuned():
    return {f"tuning/{name}/{rate:g}": {"validation_accuracy": 1 - rate} for name in BACKBONES for rate in RATES}


def compared():
    """Made-up precisions that tell backbones and seeds apart."""
    results = tuned()
    for i, name in enumerate(BACKBONES):
        for seed in range(3):
            score = 50 + 2 * i + seed**2
            results[f"transfer/{name}/{seed}"] = {
                "test": {
                    "box_ap": score,
                    "box_ap50": score + 20,
                    "mask_ap": score - 10,
                    "mask_ap50": 60,
                    "examples": 500,
                },
                "pretraining": {"test": {"accuracy": 0.9 + 0.01 * i}},
                "parameters": 1234,
                "config": {"detection": {"data": {"train_examples": 2000}}},
            }
    return results


def test_the_detector_is_the_same_for_all_backbones():
    assert {trial.key.split("/")[0] for trial in plan({})} == {"tuning"}
    assert all(best_rate(tuned(), name) == RATES[0] for name in BACKBONES)
    trials = {trial.key: trial.config for trial in plan(tuned()) if trial.key.startswith("transfer")}
    assert len(trials) == 3 * len(BACKBONES)
    for seed in range(3):
        configs = [trials[f"transfer/{name}/{seed}"] for name in BACKBONES]
        assert len({config.detection.model_dump_json() for config in configs}) == 1
        assert all(config.pretraining.model == configs[0].pretraining.model for config in configs)
        assert {config.pretraining.epochs for config in configs} == {1.0}


def test_tables_are_means_and_paired_differences_of_the_raw_numbers():
    text = table(compared())
    values = 50 + np.array([0, 1, 4])
    width = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    spread = f"± {width:.2f}"
    assert f"| BatchNorm, two classes | 90.00 ± 0.00 | {values.mean():.2f} {spread} |" in text
    assert "| reference less batch norm | 2.00 ± 0.00 | 2.00 ± 0.00 | 2.00 ± 0.00 | 0.00 ± 0.00 |" in text


def test_runs_that_diverged_count_as_nothing():
    results = compared()
    results["transfer/BatchNorm, two classes/0"] = {"diverged": "step 3: 10 steps in a row were not finite"}
    assert f"| {np.mean([0, 51, 54]):.2f} ±" in table(results)


def test_without_a_whole_seed_nothing_is_concluded():
    results = compared()
    for seed in range(3):
        del results[f"transfer/BatchNorm, shuffled/{seed}"]
    assert table(results).startswith("Inconclusive")


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_the_whole_study_in_small(mnist_dir, tmp_path):
    carry_out_study("reference-batch-transfer", tmp_path, data_dir=mnist_dir, jobs=0, budget=0.01)
    results = json.loads((tmp_path / "reference-batch-transfer-0.01.json").read_text())
    assert set(results) == {f"transfer/{name}/0" for name in BACKBONES}
    for result in results.values():
        assert 0 <= result["test"]["mask_ap"] <= 100
        assert len(result["found"]) == 6
    assert (tmp_path / "reference-batch-transfer-0.01.md").read_text() == table(results)
    assert (tmp_path / "reference-batch-transfer-0.01-detections.png").stat().st_size > 10_000
