"""Metrics of a run, to ``metrics.jsonl`` and to TensorBoard."""

import json
import math
import os
import time
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

    Raises:
      UserError: the files cannot be written.
    """

    def __init__(self, run: RunDirectory, step: int):
        kept = [line for line in read_metrics(run.metrics_file) if line["step"] <= step and line["split"] != "test"]
        self._directory = run.path
        try:
            draft = run.metrics_file.with_name(run.metrics_file.name + ".draft")
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
            draft.replace(run.metrics_file)
            self._file = run.metrics_file.open("a")
            self._events = _EventFile(run.tensorboard, step)
        except OSError as error:
            raise self._not_written(error) from error

    def write(self, step: int, epoch: float, split: str, **values: float | int | None) -> dict[str, Any]:
        """One line; numbers that are not finite become null, which JSON has."""
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 4), "split": split}
        for name, value in values.items():
            line[name] = value if value is not None and math.isfinite(value) else None
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            self._events.write(step, {f"{split}/{name}": line[name] for name in values if line[name] is not None})
        except OSError as error:
            raise self._not_written(error) from error
        return line

    def close(self) -> None:
        """Writes out what is buffered."""
        try:
            self._file.close()
            self._events.close()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> UserError:
        return UserError(f"metrics cannot be written to {self._directory}: {error.strerror}.")


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut short by a crash is left out."""
    if not file.exists():
        return []
    lines = file.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class _EventFile:
    """Scalars for TensorBoard, written at once: a queue and a thread would report a full disk nowhere."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        directory.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"), filename_suffix=f".{os.getpid()}.step{step}")
        # Tells TensorBoard to hide what an interrupted run wrote after this step.
        self._writer.write_event(Event(step=step + 1, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=self._scalar(name, value)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
