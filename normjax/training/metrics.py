"""Metrics of a run, to ``metrics.jsonl`` and to TensorBoard."""

import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from normjax.errors import UserError
from normjax.training.run_directory import RunDirectory


class MetricsLog:
    """Appends to the metrics of a run, whole line by whole line.

    A resumed run drops what it wrote after the checkpoint it goes on from, and the test figures, so that the file
    reads like that of a run never interrupted. A training does not end because a line cannot be written: the line is
    kept and written with the next one.

    Args:
      run: the run directory.
      step: the step the run goes on from.
      warn: is told what could not be written.
      silent: write nothing, because another process does.

    Raises:
      UserError: the files cannot be written to begin with.
    """

    def __init__(self, run: RunDirectory, step: int, warn: Callable[[str], None] = print, *, silent: bool = False):
        self._run, self._step, self._warn, self._silent = run, step, warn, silent
        self._waiting = ""  # lines that could not be written
        self._events: _EventFile | None = None
        if silent:
            return
        lines, unreadable = _parse(run.metrics_file)
        if unreadable:
            warn(f"{unreadable} lines of {run.metrics_file} cannot be read; they are left out from now on.")
        kept = [line for line in lines if line["step"] <= step and line["split"] != "test"]
        try:
            draft = run.metrics_file.with_name(run.metrics_file.name + ".draft")
            draft.write_text("".join(json.dumps(line) + "\n" for line in kept))
            draft.replace(run.metrics_file)
            self._whole = run.metrics_file.stat().st_size  # bytes, up to the end of the last line
            self._events = _EventFile(run.tensorboard, step)
        except OSError as error:
            raise UserError(self._complaint(error)) from error

    def write(self, step: int, epoch: float, split: str, **values: float | int | None) -> dict[str, Any]:
        """One line; numbers that are not finite become null, which JSON has."""
        line: dict[str, Any] = {"step": step, "epoch": round(epoch, 4), "split": split}
        for name, value in values.items():
            line[name] = value if value is not None and math.isfinite(value) else None
        if not self._silent:
            warned = bool(self._waiting)
            self._waiting += json.dumps(line) + "\n"
            try:
                self._append()
            except OSError as error:
                if not warned:
                    self._warn(f"{self._complaint(error)} The lines are kept, and training goes on.")
            self._show(line)
        return line

    def close(self) -> None:
        """Writes what is still waiting.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self._append()
        except OSError as error:
            raise UserError(self._complaint(error)) from error
        finally:
            if self._events is not None:
                self._events.close()
                self._events = None

    def _append(self) -> None:
        if not self._waiting:
            return
        path = self._run.metrics_file
        if not path.exists():
            path.touch()
            self._warn(f"{path} was removed; it begins anew, and training goes on.")
        with path.open("r+b") as file:
            # A full disk may have taken a part of the lines; someone may have emptied the file.
            self._whole = min(self._whole, path.stat().st_size)
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(self._waiting.encode())
            file.flush()
            self._whole = file.tell()
        self._waiting = ""

    def _show(self, line: dict[str, Any]) -> None:
        """Hands the line to TensorBoard, whose file is made anew of all lines where it is gone."""
        try:
            if self._events is not None and self._events.is_there():
                self._events.write(line)
                return
            self._drop_events()
            folder = self._run.tensorboard
            alone = not folder.exists() or not any(folder.iterdir())
            self._events = _EventFile(folder, self._step)
            for earlier in read_metrics(self._run.metrics_file):
                if alone or earlier["step"] > self._step:
                    self._events.write(earlier)
        except OSError as error:
            self._drop_events()
            self._warn(f"{self._complaint(error)} TensorBoard shows nothing new meanwhile, and training goes on.")

    def _drop_events(self) -> None:
        events, self._events = self._events, None
        if events is not None:
            events.drop()

    def _complaint(self, error: OSError) -> str:
        return f"metrics cannot be written to {self._run.path}: {error.strerror}."


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; those that a crash or a disk has spoilt are left out."""
    return _parse(file)[0]


def _parse(file: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of the file, and how many cannot be read; a last line cut short by a crash does not count."""
    if not file.exists():
        return [], 0
    texts = [text for text in file.read_bytes().splitlines(keepends=True) if text.endswith(b"\n")]
    lines = [line for text in texts if (line := read_line(text)) is not None]
    return lines, len(texts) - len(lines)


def read_line(text: bytes | str) -> dict[str, Any] | None:
    """One line of a ``metrics.jsonl``; None where it is spoilt."""
    try:
        line = json.loads(text)
    except ValueError:  # of bytes that are no text as well
        return None
    return line if isinstance(line, dict) and {"step", "split"} <= line.keys() else None


class _EventFile:
    """Scalars for TensorBoard, written at once: a queue and a thread would report a full disk nowhere."""

    def __init__(self, directory: Path, step: int):
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        directory.mkdir(exist_ok=True)
        now, host = time.time_ns(), platform.node()
        self._file = directory / f"events.out.tfevents.{now // 10**9}.{host}.{os.getpid()}.{now}.step{step}"
        self._records = RecordWriter(str(self._file))
        try:
            self._add(file_version="brain.Event:2")
            # Tells TensorBoard to hide what an interrupted run wrote after this step.
            self._add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
            self._records.flush()
        except OSError:
            self.drop()
            raise

    def is_there(self) -> bool:
        """Whether nobody has removed the file."""
        return self._file.exists()

    def write(self, line: dict[str, Any]) -> None:
        values = {name: value for name, value in line.items() if name not in ("step", "epoch", "split")}
        for name, value in values.items():
            if value is not None:
                self._add(step=line["step"], summary=self._scalar(f"{line['split']}/{name}", value))
        self._records.flush()

    def close(self) -> None:
        self._records.close()

    def drop(self) -> None:
        """Gives up a file that could not be written to its end; its scalars are in the lines, too."""
        with contextlib.suppress(OSError):  # of what is still buffered, and was reported
            self._records.close()
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    def _add(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
