"""A tiny run on the digits, and what the tests of whole runs do to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from normjax.training import loop
from normjax.training.config import ModelConfig, RunConfig, ScheduleConfig, TrainConfig
from normjax.training.evaluate import restore_run

STEPS = 21  # two epochs of 1,295 images in batches of 128
EPOCH_ENDS = (11, 21)


class FinishedRun(NamedTuple):
    path: Path
    config: TrainConfig
    summary: dict[str, Any]


class PowerCutError(Exception):
    """The power went off."""


def failing_saves(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test in which Orbax fails to write: its threads and coroutines end unheard, and not in a later test."""
    unheard = pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnhandledThreadExceptionWarning",
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore:coroutine .* was never awaited:RuntimeWarning",
    )
    return pytest.mark.usefixtures("collected")(unheard(test))


def run_config(run: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    """An MLP on the digits for two epochs, a checkpoint every three steps."""
    options = {"log_every": 2, "checkpoint_every": 3, "keep": 30, "eval_batch_size": 200, **(run or {})}
    fields: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 128,
        "model": ModelConfig(name="mlp", widths=(8, 6)),
        "schedule": ScheduleConfig(warmup_epochs=0.5),
        "run": RunConfig(**options),
    }
    return TrainConfig(**{**fields, **changes})


def stop_after(monkeypatch: Any, step: int) -> None:
    """Lets the next run die once the metrics of ``step`` are written."""
    flush = loop._Run._flush

    def stopping(self: Any, at: int, state: Any) -> Any:
        line = flush(self, at, state)
        if at == step:
            raise PowerCutError
        return line

    monkeypatch.setattr(loop._Run, "_flush", stopping)


def poison(monkeypatch: Any, steps: range) -> None:
    """Lets the images of these steps be NaN."""
    batches = loop.training_batches

    def poisoned(*arguments: Any, start: int, **options: Any):
        for step, batch in enumerate(batches(*arguments, start=start, **options), start + 1):
            image = (batch["image"].astype(np.float32) / 255 - 0.3) / 0.4
            yield {**batch, "image": np.where(step in steps, np.float32(np.nan), image)}

    monkeypatch.setattr(loop, "training_batches", poisoned)


def metrics_of(path: Path, split: str | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if split in (None, line["split"])]


def state_of(path: Path, checkpoint: str = "last") -> Any:
    _, state, _ = restore_run(path, checkpoint)
    return state


def assert_same_bits(a: Any, b: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes, but for the note of who looked last."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
