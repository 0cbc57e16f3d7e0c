"""Checkpoints by Orbax: the latest few and the best, written beside the training, whole or absent."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from normjax.errors import UserError

_METRIC = "validation_accuracy"


class Checkpoints:
    """The checkpoints of a run.

    Args:
      directory: ``checkpoints/`` of the run.
      keep: how many of the latest are kept, besides the one with the best validation accuracy.

    Raises:
      UserError: the directory cannot be read, or the metrics of a checkpoint are damaged.
    """

    def __init__(self, directory: Path, keep: int = 2):
        best = checkpoint_managers.BestN(
            get_metric_fn=lambda metrics: metrics[_METRIC], n=1, keep_checkpoints_without_metrics=False
        )
        latest = checkpoint_managers.LatestN(keep)
        self.directory = directory
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy([latest, best]),
            best_fn=lambda metrics: metrics[_METRIC],
            cleanup_tmp_directories=True,
        )
        try:
            self._manager = ocp.CheckpointManager(directory.resolve(), options=options)
        except (OSError, ValueError) as error:
            raise UserError(f"the checkpoints in {directory} cannot be read: {_first_words(error)}") from error

    def save(self, step: int, state: Any, meta: dict[str, Any], accuracy: float | None = None) -> None:
        """Starts to write the state of ``step``; the training goes on meanwhile.

        Args:
          step: number of the checkpoint.
          state: tree of numpy arrays.
          meta: plain data that goes with it.
          accuracy: on the validation split; None does not take part in the choice of the best.

        Raises:
          UserError: this checkpoint or the one before could not be written.
        """
        metrics = None if accuracy is None else {_METRIC: accuracy}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(np.asarray, state)), meta=ocp.args.JsonSave(meta)
        )
        try:
            self._manager.save(step, args=args, metrics=metrics)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          UserError: a checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_written(error) from error

    def restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """State and plain data of a checkpoint.

        Args:
          step: number of the checkpoint.
          like: a tree of the same structure, shapes and types.

        Raises:
          UserError: there is no such checkpoint, or it does not fit the network.
        """
        if step not in self.steps:
            raise UserError(f"{self.directory} has no checkpoint {step}; it has {self.steps or 'none'}.")
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
        except (OSError, ValueError, RuntimeError) as error:
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> UserError:
        good = [step for step in self.steps if (self.directory / str(step)).is_dir()]
        return UserError(
            f"a checkpoint could not be written to {self.directory} ({error}); "
            f"{f'the last good one is step {good[-1]}' if good else 'there is no earlier one'}."
        )


def _first_words(error: Exception) -> str:
    """The beginning of what may be pages."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:200]} …"
