"""The harness of the studies: results are kept as they come, what is there is not run again, what fails is told."""

import json
import subprocess
import sys
import threading

import pytest

from normjax.errors import UserError
from normjax.studies import trials
from normjax.studies.comparison import estimate, markdown, paired
from normjax.studies.trials import Trial, carry_out
from normjax.training.config import TrainConfig


def trial(key, **changes):
    return Trial(key, TrainConfig(**changes))


@pytest.fixture
def ran(monkeypatch):
    """Keys of the runs, which take no time; a run named broken fails."""
    keys = []

    def run(trial, *_):
        keys.append(trial.key)
        if trial.key == "broken":
            raise UserError("run broken of the study failed: why")
        return {"config": trial.config.model_dump(mode="json"), "test": {"accuracy": 0.5}}

    monkeypatch.setattr(trials, "_run", run)
    return keys


def test_what_is_there_is_not_run_again(ran, tmp_path):
    file = tmp_path / "study.json"
    carry_out(lambda _: [trial("a"), trial("b")], file, data_dir=None, jobs=1)
    results = carry_out(lambda _: [trial("a"), trial("b"), trial("c")], file, data_dir=None, jobs=2)
    assert ran == ["a", "b", "c"]
    assert set(results) == set(json.loads(file.read_text())) == {"a", "b", "c"}


def test_results_decide_what_follows(ran, tmp_path):
    def plan(results):
        return [trial("first"), *([trial("second")] if "first" in results else [])]

    carry_out(plan, tmp_path / "study.json", data_dir=None, jobs=2)
    assert ran == ["first", "second"]


def test_a_run_that_fails_ends_the_study_and_keeps_what_there_was(ran, tmp_path):
    file = tmp_path / "study.json"
    with pytest.raises(UserError, match="run broken of the study failed: why"):
        carry_out(lambda _: [trial("a"), trial("broken"), trial("c")], file, data_dir=None, jobs=1)
    assert set(json.loads(file.read_text())) == {"a"}
    assert "c" not in ran


def test_a_run_that_fails_does_not_cost_the_one_beside_it(ran, monkeypatch, tmp_path):
    beside = threading.Event()
    plain = trials._run

    def run(trial, *arguments):
        if trial.key == "slow":
            assert beside.wait(30)
        if trial.key == "broken":
            threading.Timer(0.2, beside.set).start()
        return plain(trial, *arguments)

    monkeypatch.setattr(trials, "_run", run)
    file = tmp_path / "study.json"
    with pytest.raises(UserError, match="run broken of the study failed"):
        carry_out(lambda _: [trial("slow"), trial("broken"), trial("c")], file, data_dir=None, jobs=2)
    assert set(json.loads(file.read_text())) == {"slow"}
    assert "c" not in ran


def test_runs_with_another_config_are_not_taken_for_those_of_the_study(ran, tmp_path):
    file = tmp_path / "study.json"
    carry_out(lambda _: [trial("a")], file, data_dir=None, jobs=1)
    with pytest.raises(UserError, match="holds the run a with another config than the study has now"):
        carry_out(lambda _: [trial("a", epochs=7)], file, data_dir=None, jobs=1)
    # A field that a later version adds has its default in what was written before.
    results = json.loads(file.read_text())
    del results["a"]["config"]["stream"]
    file.write_text(json.dumps(results))
    carry_out(lambda _: [trial("a")], file, data_dir=None, jobs=1)
    assert ran == ["a"]


def test_damaged_results_are_told(tmp_path):
    (tmp_path / "study.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"study.json is not JSON"):
        trials.read_results(tmp_path / "study.json")


def test_a_run_ends_when_the_study_does(tmp_path):
    # A study that is killed must leave no run behind, which would hold its directory against the next.
    task = {"kind": "TrainConfig", "config": {"epochs": 10_000}, "workdir": str(tmp_path / "run"), "data_dir": None}
    process = subprocess.Popen(
        [sys.executable, "-m", "normjax.studies.run"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    process.stdin.write(json.dumps({**task, "probe": None}) + "\n")
    process.stdin.close()
    assert process.wait(timeout=60) == 1


def test_runs_are_processes_of_their_own_and_their_numbers_are_their_summaries(tmp_path):
    # Two at a time whose keys differ in what looks like a suffix: they once wrote over each other's numbers.
    small = {"epochs": 0.2, "schedule": {"name": "constant", "warmup_epochs": 0}, "model": {"name": "mlp"}}
    trials = [
        trial(f"digits/{rate}", **small, optimizer={"learning_rate": rate}, run={"validate_every": 1})
        for rate in (0.02, 0.06)
    ]
    results = carry_out(lambda _: trials, tmp_path / "study.json", data_dir=None, jobs=2)
    for rate in (0.02, 0.06):
        told = results[f"digits/{rate}"]
        assert told["test"]["examples"] == 359
        assert told["config"]["optimizer"]["learning_rate"] == rate
        assert [step for step, _ in told["curve"]] == [1, 2, 3, 4, 5]
        assert told["machine"]["jax"]
        assert told["commit"] is None or len(told["commit"]) >= 12
    # Nothing is left but the numbers.
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]


def test_losses_that_are_not_finite_are_a_result(tmp_path):
    # lr 1e30 overflows in the first steps; a study reports that instead of breaking off.
    wild = {
        "epochs": 1,
        "optimizer": {"learning_rate": 1e30},
        "schedule": {"name": "constant", "warmup_epochs": 0},
        "model": {"name": "mlp"},
        "norm": {"name": "reference_batch_norm", "options": {"mode": "fixed"}},
        "reference": {"refresh": "once"},
        "max_skipped_steps": 2,
    }
    results = carry_out(lambda _: [trial("wild", **wild)], tmp_path / "study.json", data_dir=None, jobs=1)
    assert "not finite" in results["wild"]["diverged"]


def test_a_mistake_in_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match=r"run lost of the study failed: .*missing"):
        carry_out(
            lambda _: [trial("lost", data={"name": "folder"})], tmp_path / "s.json", data_dir=tmp_path / "missing"
        )


def test_estimates_are_students():
    # Tables of Student's t: 4.3027 with two degrees of freedom.
    got = estimate([80.0, 82.0, 81.0])
    assert got.mean == pytest.approx(81.0)
    assert got.half_width == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert str(estimate([5.0])) == "5.00"
    # Paired: a difference that is the same for all seeds is certain, however far the seeds lie apart.
    assert paired([10.0, 20.0, 33.0], [9.0, 19.0, 32.0]) == (1.0, 0.0)


def test_a_table_is_markdown():
    assert markdown(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
