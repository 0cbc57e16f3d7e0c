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


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Trains a network and tells what is kept of it.

    Args:
      task: ``config``, ``workdir``, ``data_dir`` and ``probe``, as ``trials`` writes them.

    Returns:
      Config, commit, figures of test and validation, the validation accuracy over the steps, seconds, machine, and
      what the probe measured; where too many steps were not finite, ``diverged`` says so in their stead.
    """
    from normjax.errors import UserError
    from normjax.training.config import parse_config
    from normjax.training.loop import machine, train
    from normjax.training.metrics import read_metrics

    config, workdir = parse_config(task["config"]), Path(task["workdir"])
    data_dir = None if task["data_dir"] is None else Path(task["data_dir"])
    told = {"config": config.model_dump(mode="json"), "commit": commit()}
    try:
        summary = train(config, workdir, data_dir=data_dir)
    except UserError as error:
        if "not finite" not in str(error):
            raise
        return {**told, "diverged": str(error), "machine": machine()}
    lines = read_metrics(workdir / "metrics.jsonl")
    curve = [[line["step"], line["accuracy"]] for line in lines if line["split"] == "validation"]
    kept = ("test", "validation_accuracy", "steps", "parameters", "seconds", "machine")
    told |= {name: summary[name] for name in kept} | {"curve": curve}
    if task["probe"]:
        told["probe"] = importlib.import_module(f"normjax.studies.{task['probe']}").measure(workdir, data_dir)
    return told


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
