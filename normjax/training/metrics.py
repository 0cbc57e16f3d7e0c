"""Metrics of a run, to ``metrics.jsonl`` and to TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from normjax.errors import UserError
from normjax.training.run_directory import RunDirectory


class MetricsLog:
    """Appends to the metrics of a run, whole line by whole line.

    A resumed run drops what it wrote after the checkpoint it goes on from, and the test figures, so that the file
    reads like that of a run never interrupted.

    Args:
      run: the run directory.
      step: the step the run goes on from.
    """

    def __init__(self, run: RunDirectory, step: int):
        from tensorboardX import SummaryWriter

        kept = [line for line in read_metrics(run.metrics_file) if line["step"] <= step and line["split"] != "test"]
        try:
            draft = run.metrics_file.with_name(run.metrics_file.name + ".draft")
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
            draft.replace(run.metrics_file)
            self._file = run.metrics_file.open("a")  # closed by close()
            self._board = SummaryWriter(str(run.tensorboard), purge_step=step + 1)
        except OSError as error:
            raise UserError(f"metrics cannot be written to {run.path}: {error.strerror}.") from error

    def write(self, step: int, epoch: float, split: str, **values: float | int | None) -> dict[str, Any]:
        """One line; numbers that are not finite become null, which JSON has."""
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 4), "split": split}
        for name, value in values.items():
            finite = value is not None and math.isfinite(value)
            line[name] = value if finite else None
            if finite:
                self._board.add_scalar(f"{split}/{name}", value, step)
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"metrics cannot be written to {self._file.name}: {error.strerror}.") from error
        return line

    def close(self) -> None:
        """Writes out what is buffered."""
        self._file.close()
        self._board.close()


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut short by a crash is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
