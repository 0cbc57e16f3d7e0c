"""The studies of pruning: their plans, their tables, and the whole of them in small."""

import json

import numpy as np
import pytest

from normjax.pruning import run
from normjax.pruning.config import PruningConfig
from normjax.studies import pruning, pruning_transfer
from normjax.studies.pruning import CONTENDERS, LEFT, SCRATCH, SEEDED, SEEDS, accuracy_at, curve, plan, table
from normjax.studies.report import carry_out_study

pytest_plugins = ["real_data", "training_fixtures"]

LOSSES = {"debiased": 0.01, "raw": 0.03, "equal": 0.015, "per_cost": 0.012, "in_turn": 0.04, "at_once": 0.05}
LOSSES |= {"weights": 0.02, "weights_raw": 0.025}
LAYERS = {"conv0_0": 16, "dense0": 64}


def trained(accuracy, config, parameters=138_618):
    return {
        "test": {"accuracy": accuracy, "examples": 10_000},
        "validation_accuracy": accuracy + 0.001,
        "parameters": parameters,
        "steps": 1407,
        "config": config,
    }


def told(multiply_adds, accuracy, accepted=True):
    return {"multiply_adds": multiply_adds, "accuracy": accuracy, "accepted": accepted}


def searched(before, after, config, rounds=None):
    sizes = {"parameters": 500_000, "multiply_adds": 40_000_000, "milliseconds": {"128": 60.0}}
    small = {"parameters": 100_000, "multiply_adds": 16_000_000, "milliseconds": {"128": 25.0}}
    rounds = rounds or [told(100, before), told(60, before - 0.01), told(40, 0.1, False), told(20, after)]
    return {
        "test": {"accuracy": after},
        "rounds": rounds,
        "before": sizes,
        "after": small,
        "neurons": LAYERS,
        "kept": {"conv0_0": [0, 5], "dense0": [1]},
        "config": config,
    }


def carried_out(long=True):
    """Results as a study would have them whose runs take no time."""
    results = {}
    for _ in range(4):
        for trial in plan(results):
            kind, name, seed = trial.key.split("/")
            config = trial.config.model_dump(mode="json")
            accuracy = 0.8 + 0.002 * int(seed) ** 2
            if name.removesuffix("-first") in pruning.LONG:
                if long:
                    results[trial.key] = trained(0.91, config) if kind == "baseline" else searched(0.91, 0.905, config)
            elif kind == "baseline" or name == SCRATCH:
                results[trial.key] = trained(accuracy - (0.02 if name == SCRATCH else 0), config)
            else:
                results[trial.key] = searched(accuracy, accuracy - LOSSES[name], config)
    return results


def test_searches_of_a_seed_begin_with_the_same_network():
    first = plan({})
    assert [trial.key for trial in first] == [
        "baseline/convnet-first/0",
        "baseline/convnet-dense/0",
        "baseline/resnet20/0",
        *(f"baseline/short/{seed}" for seed in SEEDS),
    ]
    files = [trial.weights for trial in first]
    assert len(set(files)) == len(files)
    trials = {trial.key: trial for trial in plan(carried_out())}
    assert {key.split("/")[1] for key in trials if key.endswith("/2")} == {"short", *SEEDED}
    assert {key.split("/")[1] for key in trials if key.startswith("search") and key.endswith("/0")} == {
        *CONTENDERS,
        SCRATCH,
        *pruning.LONG,
    }
    for key, trial in trials.items():
        if isinstance(trial.config, PruningConfig):
            name, seed = key.split("/")[1:]
            baseline = trials[f"baseline/{pruning.LONG[name].trained if name in pruning.LONG else 'short'}/{seed}"]
            assert str(trial.config.training.model.weights) == baseline.weights
    # A second cycle begins where the first one ended.
    assert str(trials["baseline/convnet/0"].config.model.weights) == trials["baseline/convnet-first/0"].weights
    # From nothing: the shape that the debiased ranking found, and the whole training.
    scratch = trials[f"search/{SCRATCH}/0"].config
    assert scratch.model.kept == {"conv0_0": (0, 5), "dense0": (1,)}
    assert scratch.epochs == trials["baseline/short/0"].config.epochs


def test_contenders_differ_in_how_they_rank_and_nothing_else():
    trials = {trial.key: trial.config for trial in plan(carried_out())}
    plain = trials["search/debiased/0"]
    for name, options in CONTENDERS.items():
        assert set(options) <= {"score", "debias", "per_cost", "order", "step", "layer_cap"}
        same = {field: getattr(plain.pruning, field) for field in options}
        assert trials[f"search/{name}/0"].pruning.model_copy(update=same) == plain.pruning
        assert trials[f"search/{name}/0"].training == plain.training


def test_curves_are_read_between_the_rounds_that_were_accepted():
    result = searched(0.8, 0.7, {})
    np.testing.assert_allclose(curve(result), [[100, 80], [60, 79], [20, 70]])
    assert accuracy_at(result, 0.7) == pytest.approx(79.25)
    assert accuracy_at(result, 0.4) == pytest.approx(74.5)
    # What was not reached is not known.
    assert accuracy_at(result, 0.1) is None


def test_tables_are_means_and_paired_differences_of_the_raw_numbers():
    text = table(carried_out())
    values = 80 + np.array([0.0, 0.2, 0.8])
    width = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    line = next(line for line in text.splitlines() if line.startswith("| Taylor with gates, all layers, as they are"))
    assert line.endswith(f"| {values.mean() - 3:.2f} ± {width:.2f} | 2.00 ± 0.00 |")
    assert "as they are: yes (2.00 ± 0.00 points; at half of them, validation, 0.50 ± 0.00)" in text
    assert "equal share of each layer: yes (0.50 ± 0.00 points" in text
    per_cost = next(line for line in text.splitlines() if line.startswith("Taylor with gates, all layers, per product"))
    assert "as they are: yes (1.80 ± 0.00 points" in per_cost
    assert "equal share of each layer: yes (0.30 ± 0.00 points" in per_cost
    line = next(line for line in text.splitlines() if line.startswith("| the debiased shape"))
    assert line.endswith("| 78.00 | 1.00 |")
    line = next(line for line in text.splitlines() if line.startswith("| convnet "))
    assert "| 91.00 | 90.50 | 0.50 (yes) | 13.5 | 40.0 → 16.0 (40%) | 500.0 → 100.0 (20%) | 60.0 → 25.0 (42%) |" in line
    assert f"test, {LEFT:.0%}" in text


def test_a_trial_of_the_study_has_weights_of_its_own():
    # The whole study would have pruned the networks of a trial that were trained half as long.
    files = [{trial.weights for trial in plan({}, budget)} for budget in (1.0, 0.5)]
    assert not files[0] & files[1]


def test_what_diverged_ends_no_study():
    results = carried_out()
    results["search/raw/1"] = {"diverged": "step 3: 10 steps in a row were not finite"}
    # It counts, as 0: a contender that fails must not be spared the seed.
    text = table(results)
    assert "3 seeds" in text
    line = next(line for line in text.splitlines() if line.startswith("| Taylor with gates, all layers, as they are"))
    raw = np.array([77.0, 0.0, 77.8])
    assert f"| {raw.mean():.2f} ± " in line
    results["search/at_once/0"] = results["baseline/resnet20/0"] = results["search/raw/1"]
    line = next(
        line
        for line in table(results).splitlines()
        if line.startswith("| Taylor with gates, all layers, debiased (l2), at once")
    )
    assert "| 0.00 | 79.00 |" in line
    assert "search/resnet20/0" not in {trial.key for trial in plan(results)}
    assert plan({"baseline/short/0": results["search/raw/1"]})


def test_an_undertrained_network_concludes_nothing():
    results = carried_out()
    results["baseline/convnet/0"]["test"]["accuracy"] = 0.899
    line = next(line for line in table(results).splitlines() if line.startswith("| convnet "))
    assert "(inconclusive)" in line
    assert "At length" not in table(carried_out(long=False))
    assert table({}).startswith("Short form: inconclusive")


def test_findings_of_the_transfer_are_those_of_the_numbers():
    results, config = {}, {}
    for _ in range(3):
        for trial in pruning_transfer.plan(results):
            if "/" not in trial.key:
                results[trial.key] = trained(0.8, config)
                continue
            _, what, score = trial.key.split("/")
            # Rounds that missed the target count: a score that fails early must not be left out.
            first = told(70, 0.79) if score.startswith("taylor") else told(70, 0.7, accepted=False)
            result = searched(0.8, 0.78, config, [told(100, 0.8), first, told(50, 0.78)])
            if score == "taylor_gate":
                result["after"]["multiply_adds"] *= 0.75
            result["neurons"] = {"conv0_0": 10, "dense0": 10}
            result["kept"] = {"conv0_0": list(range(10 if what == "dense" else 7)), "dense0": list(range(4))}
            results[trial.key] = result
    text = pruning_transfer.table(results)
    assert "by l2: 40% of the dense neurons are left, 70% of the convolutions', which do 40 % of the mult" in text
    assert "Scores of data win at first: found (at 70% of the multiplications 79.0 % against 70.0 %)" in text
    assert "scores of data leave 30 % of the multiplications (78.00 % test) at best, scores of weights 40 %" in text
    for result in results.values():
        for step in result.get("rounds", ())[1:2]:
            step["accuracy"] = 0.77
    assert "Scores of data win at first: no difference beyond chance" in pruning_transfer.table(results)
    for key, result in results.items():
        for step in result.get("rounds", ())[1:2] if "l2" in key else ():
            step["accuracy"] = 0.9
    assert "Scores of data win at first: not found" in pruning_transfer.table(results)


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_both_studies_in_small(real_data_dir, tmp_path, monkeypatch):
    # What it would measure are compilations of many sizes.
    monkeypatch.setattr(run, "milliseconds", lambda networks, *_: [{"1": 1.0, "128": 9.0}] * len(networks))
    for name, module in (("pruning", pruning), ("pruning-transfer", pruning_transfer)):
        carry_out_study(name, tmp_path, data_dir=real_data_dir, jobs=0, budget=0.01)
        results = json.loads((tmp_path / f"{name}-0.01.json").read_text())
        assert not [trial for trial in module.plan(results, 0.01) if trial.key not in results]
        assert (tmp_path / f"{name}-0.01.md").read_text() == module.table(results)
        assert (tmp_path / f"{name}-0.01-curves.png").stat().st_size > 10_000
        for key, result in results.items():
            assert 0 <= result["test"]["accuracy"] <= 1
            if "rounds" in result and "transfer" not in name:
                assert result["after"]["multiply_adds"] <= LEFT * result["before"]["multiply_adds"], key
    assert (tmp_path / "pruning-0.01-widths.png").stat().st_size > 10_000
    tuned, before = results["fine-tuned"], results["eight classes"]
    assert tuned["config"]["model"]["weights"] == "pruning-transfer-others-0.01.safetensors"
    # The ten classes of the test images are in one of the two.
    assert before["test"]["examples"] + tuned["test"]["examples"] == 400
