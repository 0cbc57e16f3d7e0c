"""Checkpoints by Orbax: the latest few and the best, written beside the training, whole or absent, and verified."""

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from normjax.errors import UserError
from normjax.training.cluster import on_first
from normjax.training.manifest import damage, write_manifest

_METRIC = "validation_accuracy"
_REMOVED = "removed"  # where old checkpoints go at once, to be deleted file by file
_FAILURES = (OSError, ValueError, RuntimeError)  # TimeoutError is an OSError
_PAUSES = (0.0, 1.0, 3.0)  # seconds before each further attempt to write a checkpoint


class _Draft(NamedTuple):
    """A checkpoint that is being written."""

    step: int
    args: ocp.args.Composite
    metrics: dict[str, float] | None


class Checkpoints:
    """The checkpoints of a run.

    Orbax restores flipped bits without a word, so each checkpoint has the SHA-256 of its files, written before it
    takes its name; nothing is restored that differs.

    Args:
      directory: ``checkpoints/`` of the run.
      keep: how many of the latest are kept, besides the one with the best validation accuracy.
      read_only: change nothing, because another process may write here. Otherwise damaged checkpoints are moved to
        ``damaged/`` beside the directory, and what an interrupted write left is removed.

    Attributes:
      damaged: for the number of each damaged checkpoint what is wrong with it.

    Raises:
      UserError: the directory cannot be read, or no checkpoint of it is whole.
    """

    def __init__(self, directory: Path, keep: int = 2, *, read_only: bool = False):
        self.directory = directory
        self._keep, self._read_only = keep, read_only
        self._draft: _Draft | None = None
        try:
            self.damaged: dict[int, str] = {}
            self._inspect() if read_only else on_first(self._inspect)
            self._manager = self._open()
        except (OSError, ValueError) as error:
            raise UserError(f"the checkpoints in {directory} cannot be read: {_first_words(error)}") from error

    def _open(self) -> ocp.CheckpointManager:
        if self._read_only:
            options = ocp.CheckpointManagerOptions(read_only=True, create=False, save_interval_steps=0)
            return ocp.CheckpointManager(self.directory.resolve(), options=options)
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC], n=1, keep_checkpoints_without_metrics=False
        )
        latest = checkpoint_managers.LatestN(self._keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
            best_fn=lambda metrics: metrics[_METRIC],
            cleanup_tmp_directories=True,
            # One killed between two files of a deletion would leave what looks like a damaged checkpoint.
            todelete_subdir=_REMOVED,
            # Threads that wait for directories wait by the clock: one set back would hold a process for that long.
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=self._write_manifest, create_directories_asynchronously=False
            ),
        )
        return ocp.CheckpointManager(self.directory.resolve(), options=options)

    def _write_manifest(self) -> None:
        """Orbax calls this when all is written and the directory has not taken its name yet."""
        assert self._draft is not None
        # Not any name that begins so: someone may keep a copy beside it.
        (folder,) = self.directory.glob(f"{self._draft.step}.orbax-checkpoint-tmp*")
        write_manifest(folder)

    def _inspect(self) -> None:
        self.damaged = _damaged(self.directory)
        if self._read_only or not self.damaged:
            return
        if len(self.damaged) == len(_numbered(self.directory)):
            step, wrong = max(self.damaged.items())
            raise UserError(
                f"no checkpoint in {self.directory} is whole; in the latest, {step}, {wrong}. Put back a copy, or "
                "begin anew with another --workdir."
            )
        aside = self.directory.with_name("damaged")
        aside.mkdir(exist_ok=True)
        for step in self.damaged:
            count = sum(entry.name.partition("-")[0] == str(step) for entry in aside.iterdir())
            (self.directory / str(step)).rename(aside / (f"{step}-{count + 1}" if count else str(step)))

    def save(self, step: int, state: Any, meta: dict[str, Any], accuracy: float | None = None) -> None:
        """Starts to write the state of ``step``; the training goes on meanwhile.

        Args:
          step: number of the checkpoint.
          state: tree of numpy arrays.
          meta: plain data that goes with it.
          accuracy: on the validation split; None does not take part in the choice of the best.

        Raises:
          UserError: this checkpoint or the one before could not be written, at further attempts either.
        """
        self.wait()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(np.asarray, state)), meta=ocp.args.JsonSave(meta)
        )
        self._draft = _Draft(step, args, None if accuracy is None else {_METRIC: accuracy})
        try:
            self._begin(self._draft)
        except _FAILURES as error:
            self._try_again(error)

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        try:
            self._finish()
        except _FAILURES as error:
            self._try_again(error)
        self._draft = None
        self._delete_removed()

    def _delete_removed(self) -> None:
        removed = self.directory / _REMOVED
        if not self._read_only and jax.process_index() == 0 and removed.is_dir():
            with contextlib.suppress(OSError):  # what is left goes behind the next checkpoint
                shutil.rmtree(removed)

    def _begin(self, draft: _Draft) -> None:
        self._manager.save(draft.step, args=draft.args, metrics=draft.metrics)

    def _finish(self) -> None:
        self._manager.wait_until_finished()
        self._manager.check_for_errors()

    def _try_again(self, error: Exception) -> None:
        """Writes the checkpoint that failed once more: a clock that jumped, or a network, may have been the reason."""
        draft, self._draft = self._draft, None
        self._reopen()
        # Where there are several processes the others may not have failed.
        if draft is None or jax.process_count() > 1:
            raise self._not_written(error) from error
        for pause in _PAUSES:
            # Threads of the attempt before may still be writing where its remains are to be removed.
            time.sleep(pause)
            if draft.step in self.steps and damage(self.directory / str(draft.step)) is None:
                return
            self._draft = draft
            try:
                self._begin(draft)
                self._finish()
            except _FAILURES as again:
                error = again
                self._reopen()
            else:
                return
            finally:
                self._draft = None
        raise self._not_written(error) from error

    def _reopen(self) -> None:
        """Begins anew with what is on disk: after a failure Orbax no longer counts what was to be replaced."""
        with contextlib.suppress(*_FAILURES):  # the failure that is being dealt with
            self._manager.close()
        try:
            self._manager = self._open()
        except (OSError, ValueError) as error:
            raise UserError(f"the checkpoints in {self.directory} cannot be read: {_first_words(error)}") from error

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and plain data of a checkpoint.

        Args:
          step: number of the checkpoint.
          like: a tree of the same structure, shapes and types.

        Raises:
          UserError: there is no such checkpoint, it is damaged, or it does not fit the network.
        """
        if step not in self.steps:
            raise UserError(f"{self.directory} has no checkpoint {step}; it has {self.steps or 'none'}.")
        if wrong := damage(self.directory / str(step)):
            raise UserError(f"checkpoint {self.directory / str(step)} is damaged: {wrong}.")
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(jax.tree.map(np.asarray, like)), meta=ocp.args.JsonRestore()
        )
        try:
            restored = self._manager.restore(step, args=args)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"checkpoint {self.directory / str(step)} does not fit this run: {_first_words(error)}"
            ) from error
        for old, new in zip(jax.tree.leaves(restored["state"]), jax.tree.leaves(like), strict=True):
            if np.shape(old) != np.shape(new):
                raise UserError(
                    f"checkpoint {self.directory / str(step)} does not fit this run: "
                    f"an array has shape {np.shape(old)}, the network wants {np.shape(new)}."
                )
        return restored["state"], restored["meta"]

    @property
    def steps(self) -> list[int]:
        """Numbers of all checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """Number of the newest checkpoint, None where there is none."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Number of the checkpoint with the best validation accuracy, the later of equals; None where none has one."""
        measured = {step: (self._manager.metrics(step) or {}).get(_METRIC) for step in self.steps}
        return max(
            (step for step in measured if measured[step] is not None), key=lambda s: (measured[s], s), default=None
        )

    def close(self) -> None:
        """Waits for what is being written and lets go of the directory.

        Raises:
          UserError: a checkpoint could not be written.
        """
        try:
            self._manager.close()
            self._delete_removed()
        except _FAILURES as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> UserError:
        good = max(_numbered(self.directory), default=None)
        return UserError(
            f"a checkpoint could not be written to {self.directory} ({_first_words(error)}); "
            f"{'there is no earlier one' if good is None else f'the last good one is step {good}'}."
        )


def _numbered(directory: Path) -> dict[int, Path]:
    """The directories of the checkpoints; an unfinished one has no number for its name yet."""
    if not directory.is_dir():
        return {}
    return {int(path.name): path for path in sorted(directory.iterdir()) if path.name.isdigit() and path.is_dir()}


def _damaged(directory: Path) -> dict[int, str]:
    wrong = {step: damage(path) for step, path in _numbered(directory).items()}
    # One that its trainer has removed meanwhile is not damaged.
    return {step: what for step, what in wrong.items() if what and (directory / str(step)).is_dir()}


def _first_words(error: Exception) -> str:
    """The beginning of what may be pages."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:200]} …"
