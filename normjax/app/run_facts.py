"""What the pages and the API tell of a run, read from its directory."""

import functools
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

from django.conf import settings

from normjax.app.complaints import without_paths
from normjax.app.jobs.commands import data_directory
from normjax.app.jobs.watch import Tail
from normjax.app.models import Run
from normjax.app.recognition.client import recogniser
from normjax.training.metrics import read_line

_FROM_METRICS = ("step", "epoch", "train_loss", "best_validation_accuracy", "best_validation_loss", "best_step")


def total_steps(run: Run) -> int | None:
    """Steps of the training; None before the data were read."""
    config, info = _json(run.directory / "config.json"), _json(run.directory / "dataset.json")
    if config is None or info is None:
        return None
    return math.ceil(config["epochs"] * info["train_examples"] / config["batch_size"])


def batch_size(run: Run) -> int:
    """Images of a step; 1 where the job has none yet."""
    config = _json(run.directory / "config.json") or run.config
    return config.get("batch_size", 1)


def figures(run: Run) -> dict[str, Any]:
    """The best and last figures of a run, as far as it has come."""
    directory = f"{settings.HOME.runs}/{run.pk}/run"  # text: a list asks this of many runs
    metrics, summary = f"{directory}/metrics.jsonl", f"{directory}/summary.json"
    return dict(_figures(metrics, _stamp(metrics), summary, _stamp(summary)))


def _stamp(file: str) -> tuple[int, int] | None:
    """What changes with a file; None where there is none."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=1024)
def _figures(metrics: str, metrics_stamp: Any, summary_file: str, summary_stamp: Any) -> dict[str, Any]:
    """Read once for each state of the files: a list of runs shows many that change no more."""
    found = _curve(metrics).read() if metrics_stamp else {}
    summary = _json(Path(summary_file)) if summary_stamp else None
    return {
        **{name: found.get(name) for name in _FROM_METRICS},
        "test_accuracy": summary["test"]["accuracy"] if summary else None,
        "test_loss": summary["test"]["loss"] if summary else None,
        "parameters": summary["parameters"] if summary else None,
        "images_per_second": summary["images_per_second"] if summary else None,
        "training_seconds": summary["seconds"].get("training") if summary else None,
    }


class _Curve:
    """The figures of a file of metrics, of which a list that is looked at often reads only what is new."""

    def __init__(self, file: Path):
        self._tail, self._found, self._lock = Tail(file), dict[str, Any](), threading.Lock()

    def read(self) -> dict[str, Any]:
        with self._lock:
            while True:
                anew, texts = self._tail.read()
                if anew:
                    self._found = {}
                if not texts:
                    return dict(self._found)
                for _end, text in texts:
                    if (line := read_line(text)) is not None:
                        self._add(line)

    def _add(self, line: dict[str, Any]) -> None:
        found, accuracy, loss = self._found, line.get("accuracy"), line.get("loss")
        found["step"], found["epoch"] = line["step"], line.get("epoch")
        if line["split"] == "train":
            found["train_loss"] = loss
        if line["split"] == "validation" and accuracy is not None:
            if accuracy > found.get("best_validation_accuracy", -1):
                found["best_validation_accuracy"], found["best_step"] = accuracy, line["step"]
            if loss is not None:
                found["best_validation_loss"] = min(loss, found.get("best_validation_loss", loss))


@functools.lru_cache(maxsize=1024)
def _curve(file: str) -> _Curve:
    return _Curve(Path(file))


def log_text(run: Run, most: int = 200_000) -> str:
    """The end of the log, without what it says of the directories of this machine."""
    try:
        with run.log.open("rb") as file:
            file.seek(max(0, run.log.stat().st_size - most))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    text = without_paths(text)
    # Colours and bars are for terminals.
    return "".join(character for character in text if character == "\n" or character.isprintable())


def answers(run: Run, user: int) -> dict[str, Any]:
    """Label and answer for every picture of the test set; computed once for the network as it is.

    Raises:
      UserError: the data are gone, or there is no network yet.
      RecognitionError: the recogniser gave no answer.
    """
    kept = run.path / "answers.json"
    checkpoints = run.directory / "checkpoints"
    stamp = checkpoints.stat().st_mtime_ns if checkpoints.is_dir() else 0
    known = _json(kept)
    if known is None or known["stamp"] != stamp:
        known = recogniser().ask("answers", run.directory, user, data_dir=data_dir(run)) | {"stamp": stamp}
        draft = kept.with_suffix(".draft")
        draft.write_text(json.dumps(known))
        draft.replace(kept)
    return known


def data_dir(run: Run) -> str | None:
    """Where the recogniser finds the data of a run."""
    directory = data_directory(run)
    return None if directory is None else str(directory)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
