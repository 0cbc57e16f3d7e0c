"""A run stopped and resumed is the run that never stopped: last checkpoint bit for bit, metrics line by line."""

import itertools
import json
import time
from functools import partial

import jax
import pytest
from run_cases import (
    STEPS,
    PowerCutError,
    assert_same_bits,
    failing_saves,
    metrics_of,
    run_config,
    state_of,
    stop_after,
)

from normjax.errors import UserError
from normjax.training import session
from normjax.training.loop import train
from normjax.training.parallel import DataParallel

pytest_plugins = ["training_fixtures"]
pytestmark = pytest.mark.usefixtures("without_pictures")

CHANGING = ("seconds", "images_per_second", "finished")


def stopped(monkeypatch, config, path, step):
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(PowerCutError):
            train(config, path)
    assert not (path / "summary.json").exists()


def assert_same_run(path, other):
    assert_same_bits(state_of(path), state_of(other))
    assert (path / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    "stops", [(2,), (11,), (4, 14, 20), (21,)], ids=lambda stops: "at " + " and ".join(map(str, stops))
)
def test_a_run_stopped_at_any_step_ends_as_if_it_had_not(straight_run, monkeypatch, tmp_path, stops):
    # 2: before any checkpoint; 4, 14, 20: within an epoch, between checkpoints; 11, 21: after an epoch, not validated.
    path = tmp_path / "run"
    for step in stops:
        stopped(monkeypatch, run_config(), path, step)
        # The line is written, the checkpoint is not: what follows the last checkpoint must go again.
        assert metrics_of(path)[-1]["step"] == step
    summary = train(run_config(), path)
    assert_same_run(path, straight_run.path)
    assert {**summary, **dict.fromkeys(CHANGING)} == {**straight_run.summary, **dict.fromkeys(CHANGING)}


def test_another_number_of_reading_threads_changes_nothing(straight_run, monkeypatch, tmp_path):
    # Augmentation belongs to (seed, step), not to the thread that happens to do it.
    path = tmp_path / "run"
    stopped(monkeypatch, run_config(), path, 14)
    train(run_config(run={"threads": 5}), path)
    assert_same_run(path, straight_run.path)


def test_a_run_begun_under_pmap_goes_on_under_shard_map(monkeypatch, tmp_path):
    # On one device, where no sum is taken in another order, the bits are the same.
    monkeypatch.setattr(
        session, "DataParallel", lambda mode, _, **options: DataParallel(mode, jax.devices()[:1], **options)
    )
    train(run_config(), tmp_path / "straight")
    stopped(monkeypatch, run_config(), tmp_path / "run", 14)
    train(run_config(run={"parallel": "shard_map"}), tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_everything_a_state_holds_goes_on(monkeypatch, tmp_path):
    # Averaged weights, both moments of AdamW, their counts, and micro-batches.
    make = partial(run_config, ema_decay=0.9, micro_batches=2, optimizer={"name": "adamw", "learning_rate": 0.01})
    train(make(), tmp_path / "straight")
    stopped(monkeypatch, make(), tmp_path / "run", 14)
    train(make(), tmp_path / "run")
    assert_same_run(tmp_path / "run", tmp_path / "straight")
    assert state_of(tmp_path / "run").updates == STEPS


@failing_saves
def test_a_clock_that_jumps_changes_nothing(straight_run, monkeypatch, tmp_path):
    # Set by hand, or by a server: forward a year, then back behind the start. Orbax gives up the write it is in.
    path, start, calls, jumps = tmp_path / "run", time.time(), itertools.count(), (0, 3e7, -3e7, 1, -1e6)
    monkeypatch.setattr(time, "time", lambda: start + jumps[next(calls) // 150 % len(jumps)])
    summary = train(run_config(), path)
    assert_same_run(path, straight_run.path)
    assert 0 < summary["seconds"]["training"] < 1000


def test_the_seconds_of_all_parts_are_counted(monkeypatch, tmp_path):
    path = tmp_path / "run"
    stopped(monkeypatch, run_config(), path, 14)
    saved = json.loads((path / "checkpoints" / "9" / "meta" / "metadata").read_text())["seconds"]
    summary = train(run_config(), path)
    assert summary["seconds"]["training"] > saved["training"] > 0
    assert summary["images_per_second"] == pytest.approx(STEPS * 128 / summary["seconds"]["training"], rel=1e-3)


def test_a_resumed_run_keeps_its_data(straight_run, monkeypatch, tmp_path):
    # Other data under the same name would give a mixture of two runs.
    path = tmp_path / "run"
    stopped(monkeypatch, run_config(), path, 4)
    description = json.loads((path / "dataset.json").read_text())
    (path / "dataset.json").write_text(json.dumps({**description, "train_examples": 1000}))
    with pytest.raises(UserError, match=r"other data: train_examples was 1000, now 1295"):
        train(run_config(), path)
    (path / "dataset.json").write_text(json.dumps(description))
    train(run_config(), path)
    assert_same_run(path, straight_run.path)
