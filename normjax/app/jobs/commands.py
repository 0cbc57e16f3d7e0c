"""The command of a job, and by what one sees that it is done."""

import json
import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_noop

from normjax.app.models import Run
from normjax.errors import UserError

_PARENT_GONE = gettext_noop("The run that this one is made from was deleted.")
_DATA_GONE = gettext_noop("The data set of this run was deleted.")


def command(run: Run) -> list[str]:
    """The words of the command; each is one of ours, a path made by us, or a value that a config has checked.

    Raises:
      UserError: the run or the data set that it needs is gone.
    """
    words = [sys.executable, "-m", "normjax"]
    if run.kind == Run.Kind.TRAIN:
        return [
            *words,
            "train",
            "--config",
            str(run.path / "config.json"),
            "--workdir",
            str(run.directory),
            *_data(run),
        ]
    if run.parent is None:
        raise UserError(_PARENT_GONE)
    if run.kind == Run.Kind.FOLD:
        return [*words, "fold", str(run.parent.directory), "--output", str(folded(run)), "--json"]
    options = [
        word
        for name, value in run.config.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return [*words, "prune", str(run.parent.directory), "--output", str(run.directory), *options, *_data(run)]


def output_file(run: Run) -> Path:
    """Where standard output goes: what fold prints is its result."""
    return run.path / "fold.json" if run.kind == Run.Kind.FOLD else run.log


def folded(run: Run) -> Path:
    """The program that a folding writes."""
    return run.path / "folded.stablehlo"


def result(run: Run) -> dict[str, Any] | None:
    """What a job left at its end; None where it has not come there."""
    names = {
        Run.Kind.TRAIN: run.directory / "summary.json",
        Run.Kind.PRUNE: run.directory / "pruning.json",
        Run.Kind.FOLD: run.path / "fold.json",
    }
    try:
        return json.loads(names[Run.Kind(run.kind)].read_text())
    except FileNotFoundError:
        return None
    except ValueError:  # cut short: fold.json is written by its process as it ends
        return None


def data_directory(run: Run) -> Path | None:
    """Where the data of a training lie.

    Raises:
      UserError: its data set is gone.
    """
    origin = run
    while origin.kind != Run.Kind.TRAIN:
        if origin.parent is None:
            raise UserError(_PARENT_GONE)
        origin = origin.parent
    if origin.config["data"]["name"] != "folder":
        return settings.DATA_DIR
    if origin.data_set is None:
        raise UserError(_DATA_GONE)
    return origin.data_set.path


def _data(run: Run) -> list[str]:
    directory = data_directory(run)
    return [] if directory is None else ["--data-dir", str(directory)]
