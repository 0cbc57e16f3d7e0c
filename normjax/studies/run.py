"""One run of a study, in a process of its own: reads a task, a line of JSON, and writes what it gave as the last line.

It ends when its input ends: a study that is stopped leaves no runs behind.
"""

import importlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np


def run(task: dict[str, Any]) -> dict[str, Any]:
    """Trains a network and tells what is kept of it.

    Args:
      task: ``kind`` and ``config``, ``folder``, ``workdir``, ``data_dir``, ``probe`` and ``weights``, as ``trials``
        writes them.

    Returns:
      Config, commit, figures of test and validation, the validation accuracy over the steps, seconds, machine, and
      what the probe measured; where too many steps were not finite, ``diverged`` says so in their stead.
    """
    from normjax.errors import UserError
    from normjax.training.loop import machine

    workdir, folder = Path(task["workdir"]), Path(task["folder"])
    data_dir = None if task["data_dir"] is None else Path(task["data_dir"])
    told = {"config": task["config"], "commit": commit(), "machine": machine()}
    carry_out = {"TrainConfig": _training, "TransferConfig": _transfer, "PruningConfig": _pruning}[task["kind"]]
    try:
        told |= carry_out(task["config"], workdir, data_dir, folder)
    except UserError as error:
        if "not finite" not in str(error):
            raise
        return {**told, "diverged": str(error)}
    if task["probe"]:
        told["probe"] = importlib.import_module(f"normjax.studies.{task['probe']}").measure(workdir, data_dir)
    if task["weights"]:
        from normjax.training.evaluate import restore_network
        from normjax.training.weights import write_weights

        write_weights(folder / task["weights"], restore_network(workdir)[1])
    return told


def _training(config: Any, workdir: Path, data_dir: Path | None, folder: Path) -> dict[str, Any]:
    from normjax.training.config import TrainConfig, parse_config
    from normjax.training.loop import train
    from normjax.training.metrics import read_metrics

    summary = train(_found(parse_config(config, TrainConfig), folder), workdir, data_dir=data_dir)
    lines = read_metrics(workdir / "metrics.jsonl")
    curve = [[line["step"], line["accuracy"]] for line in lines if line["split"] == "validation"]
    kept = ("test", "validation_accuracy", "steps", "parameters", "seconds")
    return {name: summary[name] for name in kept} | {"curve": curve}


def _found(config: Any, folder: Path) -> Any:
    """The config of a training, with the file that it starts from where it lies."""
    if config.model.weights is None:
        return config
    return config.model_copy(
        update={"model": config.model.model_copy(update={"weights": folder / config.model.weights})}
    )


def _pruning(config: Any, workdir: Path, data_dir: Path | None, folder: Path) -> dict[str, Any]:
    from flax.traverse_util import unflatten_dict

    from normjax.data import load_dataset
    from normjax.pruning.config import PruningConfig
    from normjax.pruning.run import prune_run
    from normjax.training.begin import begin_run
    from normjax.training.config import parse_config
    from normjax.training.run_directory import RunDirectory
    from normjax.training.weights import read_weights

    both = parse_config(config, PruningConfig)
    training, source = _found(both.training, folder), RunDirectory(workdir / "whole")
    if not source.config_file.exists():
        dataset = load_dataset(training.data, seed=training.seed, data_dir=data_dir, cache_mib=training.run.cache_mib)
        plain = training.model_copy(update={"model": training.model.model_copy(update={"weights": None})})
        source.acquire()
        try:
            begin_run(source, plain, dataset, unflatten_dict(read_weights(training.model.weights)))
        finally:
            source.release()
    told = prune_run(source.path, workdir / "smaller", both.pruning, checkpoint="last", data_dir=data_dir)
    kept = ("rounds", "cut", "kept", "neurons", "before", "after")
    return {"test": {"accuracy": told["after"]["test_accuracy"]}} | {name: told[name] for name in kept}


def _transfer(config: Any, workdir: Path, data_dir: Path | None, folder: Path) -> dict[str, Any]:
    from normjax.detection.config import TransferConfig
    from normjax.detection.picture import SURE
    from normjax.detection.scores import Objects
    from normjax.detection.train import train_detector
    from normjax.training.config import parse_config

    both = parse_config(config, TransferConfig)
    pretrained = _training(config["pretraining"], workdir / "backbone", data_dir, folder)
    done = train_detector(both.detection, workdir / "backbone", workdir / "detector", data_dir=data_dir)
    # Those that the picture shows.
    sure = [Objects(*(part[objects.scores >= SURE] for part in objects)) for objects in done.found]
    shown = [
        {
            "boxes": np.round(objects.boxes, 2).tolist(),
            "labels": objects.labels.tolist(),
            "scores": np.round(objects.scores, 4).tolist(),
            # Rows of the pixels that belong to the object, as bits.
            "masks": [np.packbits(mask).tobytes().hex() for mask in objects.masks],
        }
        for objects in sure
    ]
    kept = {name: done.summary[name] for name in ("test", "steps", "parameters")}
    return {**kept, "pretraining": pretrained, "found": shown}


def commit() -> str | None:
    """The commit that runs, with ``-dirty`` where normjax is not as it has it; None where there is no repository."""
    where = Path(__file__).parents[1]

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True, check=False)

    head = git("rev-parse", "--short=12", "HEAD")
    if head.returncode:
        return None
    changed = git("diff", "--quiet", "HEAD", "--", ".").returncode
    return head.stdout.strip() + ("-dirty" if changed else "")


def end_with_parent() -> None:
    """Ends this process when the one that started it has ended, whose end of the pipe then closes."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[1:]:
        # Before JAX counts the processors for its threads.
        os.sched_setaffinity(0, {int(number) for number in sys.argv[1:]})
    given = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_parent, daemon=True).start()
    print(json.dumps(run(given)))
