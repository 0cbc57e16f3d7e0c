"""What the pages and the API tell of a run, read from its directory."""

import functools
import json
import math
import os
from pathlib import Path
from typing import Any

from django.conf import settings

from normjax.app.complaints import without_paths
from normjax.app.jobs.commands import data_directory
from normjax.app.models import Run
from normjax.app.recognition.client import recogniser
from normjax.training.metrics import read_metrics


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
    del metrics_stamp
    lines = read_metrics(Path(metrics))
    validation = [line for line in lines if line["split"] == "validation" and line.get("accuracy") is not None]
    training = [line for line in lines if line["split"] == "train"]
    best = max(validation, key=lambda line: line["accuracy"], default=None)
    summary = _json(Path(summary_file)) if summary_stamp else None
    return {
        "step": lines[-1]["step"] if lines else None,
        "epoch": lines[-1].get("epoch") if lines else None,
        "train_loss": training[-1].get("loss") if training else None,
        "best_validation_accuracy": best["accuracy"] if best else None,
        "best_validation_loss": min(
            (line["loss"] for line in validation if line.get("loss") is not None), default=None
        ),
        "best_step": best["step"] if best else None,
        "test_accuracy": summary["test"]["accuracy"] if summary else None,
        "test_loss": summary["test"]["loss"] if summary else None,
        "parameters": summary["parameters"] if summary else None,
        "images_per_second": summary["images_per_second"] if summary else None,
        "training_seconds": summary["seconds"].get("training") if summary else None,
    }


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
