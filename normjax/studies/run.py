"""One run of a study, in a process of its own: reads a task as JSON, writes what it gave as the last line.

python -m normjax.studies.run PROCESSOR ... < task.json
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_SHOWN = 6  # test scenes whose objects are kept for a picture


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Trains a network and tells what is kept of it.

    Args:
      task: ``kind`` and ``config``, ``workdir``, ``data_dir`` and ``probe``, as ``trials`` writes them.

    Returns:
      Config, commit, figures of test and validation, the validation accuracy over the steps, seconds, machine, and
      what the probe measured; where too many steps were not finite, ``diverged`` says so in their stead.
    """
    from normjax.errors import UserError
    from normjax.training.loop import machine

    workdir = Path(task["workdir"])
    data_dir = None if task["data_dir"] is None else Path(task["data_dir"])
    told = {"config": task["config"], "commit": commit(), "machine": machine()}
    carry_out = _transfer if task["kind"] == "TransferConfig" else _training
    try:
        told |= carry_out(task["config"], workdir, data_dir)
    except UserError as error:
        if "not finite" not in str(error):
            raise
        return {**told, "diverged": str(error)}
    if task["probe"]:
        told["probe"] = importlib.import_module(f"normjax.studies.{task['probe']}").measure(workdir, data_dir)
    return told


def _training(config: Any, workdir: Path, data_dir: Path | None) -> dict[str, Any]:
    from normjax.training.config import TrainConfig, parse_config
    from normjax.training.loop import train
    from normjax.training.metrics import read_metrics

    summary = train(parse_config(config, TrainConfig), workdir, data_dir=data_dir)
    lines = read_metrics(workdir / "metrics.jsonl")
    curve = [[line["step"], line["accuracy"]] for line in lines if line["split"] == "validation"]
    kept = ("test", "validation_accuracy", "steps", "parameters", "seconds")
    return {name: summary[name] for name in kept} | {"curve": curve}


def _transfer(config: Any, workdir: Path, data_dir: Path | None) -> dict[str, Any]:
    from normjax.detection.config import TransferConfig
    from normjax.detection.train import train_detector
    from normjax.training.config import parse_config

    both = parse_config(config, TransferConfig)
    pretrained = _training(config["pretraining"], workdir / "backbone", data_dir)
    done = train_detector(both.detection, workdir / "backbone", workdir / "detector", data_dir=data_dir)
    shown = [
        {
            "boxes": np.round(objects.boxes, 2).tolist(),
            "labels": objects.labels.tolist(),
            "scores": np.round(objects.scores, 4).tolist(),
            # Rows of the pixels that belong to the object, as bits.
            "masks": [np.packbits(mask).tobytes().hex() for mask in objects.masks],
        }
        for objects in done.found[:_SHOWN]
    ]
    kept = {name: done.summary[name] for name in ("test", "steps", "parameters")}
    return {**kept, "pretraining": pretrained, "found": shown}


def commit() -> str | None:
    """The commit that runs, with ``-dirty`` where the files are not those of it; None where there is no repository."""
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


if __name__ == "__main__":
    if sys.argv[1:]:
        # Before JAX counts the processors for its threads.
        os.sched_setaffinity(0, {int(number) for number in sys.argv[1:]})
    print(json.dumps(run(json.load(sys.stdin))))
