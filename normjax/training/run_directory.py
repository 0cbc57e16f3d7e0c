"""The directory of a run: what lies where, who may write to it, whether a config may resume it."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from normjax.data.source import DatasetInfo
from normjax.errors import UserError
from normjax.training.config import TrainConfig, describe_validation_error, frozen_differences, parse_config

SEARCH = "search"  # folder of the rounds of a search for a smaller network
# What a run that could not be written down may have left, and what a search leaves for the run that follows it.
_BEFORE_A_RUN = {".lock", "dataset.json", "dataset.json.draft", "config.json.draft", SEARCH}


class RunDirectory:
    """Paths and records of a run.

    Args:
      path: the directory; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path
        self.config_file = path / "config.json"
        self.dataset_file = path / "dataset.json"
        self.metrics_file = path / "metrics.jsonl"
        self.summary_file = path / "summary.json"
        self.tensorboard = path / "tensorboard"
        self.checkpoints = path / "checkpoints"
        self.curves = path / "curves.png"
        self.confusion = path / "confusion.png"
        self._lock: TextIO | None = None
        self._made = False

    def acquire(self) -> None:
        """Makes the directory and takes it for this process until ``release`` or the process ends.

        Raises:
          UserError: it cannot be written to, or another trainer has it.
        """
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"run directory {self.path} cannot be written to: {error.strerror}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise UserError(f"run directory {self.path} is in use by another trainer (process {owner}).") from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Lets another trainer have the directory; one made for a run that did not begin is removed again."""
        if self._lock is None:
            return
        if not self.config_file.exists():
            # Tidying up: what cannot be removed may stay, and is no reason to hide why the run did not begin.
            with contextlib.suppress(OSError):
                (self.path / ".lock").unlink()
                if self._made:
                    self.path.rmdir()
        self._lock.close()
        self._lock = None

    def check_config(self, config: TrainConfig) -> None:
        """Checks the config against the one the run began with, if it has begun.

        Raises:
          UserError: the directory holds something else than a run, or a run with a config that differs in what
            cannot change.
        """
        if self.config_file.exists():
            if changed := frozen_differences(self.read_config(), config):
                raise UserError(
                    f"{self.path} was begun with another config and cannot go on with this one "
                    f"({'; '.join(changed)}). Only `run` options may change; give a new --workdir."
                )
        elif foreign := sorted({entry.name for entry in self.path.iterdir()} - _BEFORE_A_RUN):
            raise UserError(f"{self.path} is no run directory: it holds {foreign[0]}; give a new --workdir.")

    def check_dataset(self, info: DatasetInfo) -> None:
        """Checks the data against those the run began with, if it has begun.

        Raises:
          UserError: the data are not those the run began with.
        """
        if self.dataset_file.exists() and (old := self.read_dataset()) != info:
            field = next(name for name in type(info).model_fields if getattr(old, name) != getattr(info, name))
            raise UserError(
                f"{self.path} was begun on other data: {field} was {getattr(old, field)}, now {getattr(info, field)}."
            )

    def record(self, config: TrainConfig, info: DatasetInfo) -> None:
        """Writes down what the run is; until then a mistake leaves no trace."""
        write_json(self.dataset_file, info.model_dump(mode="json"))
        write_json(self.config_file, config.model_dump(mode="json"))

    def read_config(self) -> TrainConfig:
        """The config of the run.

        Raises:
          UserError: there is no run here, or its config is not valid.
        """
        return parse_config(self._read(self.config_file))

    def read_dataset(self) -> DatasetInfo:
        """What the run remembers of its data.

        Raises:
          UserError: there is no run here.
        """
        try:
            return DatasetInfo.model_validate(self._read(self.dataset_file))
        except ValidationError as error:
            raise UserError(f"{self.dataset_file}: {describe_validation_error(error)}") from error

    def _read(self, file: Path) -> Any:
        try:
            return json.loads(file.read_text())
        except OSError as error:
            raise UserError(f"{self.path} is no run directory: {file.name} is missing.") from error
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}") from error


def write_json(file: Path, data: Any) -> None:
    """Writes plain data so that the file is the old one or the new one, never half of it.

    Raises:
      UserError: it cannot be written.
    """
    draft = file.with_name(file.name + ".draft")
    try:
        draft.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n")
        draft.replace(file)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
