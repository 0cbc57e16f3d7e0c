"""Ends a training when the process is asked to, after the step it is in and not before that is saved."""

import os
import signal
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notes that the process was sent SIGTERM or SIGINT; a second signal ends it at once.

    Schedulers send SIGTERM before they take a machine away, Ctrl-C sends SIGINT. Used in the main thread, which alone
    gets signals in Python.

    Example:
      >>> with StopRequest() as stop:
      ...     print(stop.signal)
      None
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{self.signal.name}: ending after this step; once more ends at once\n".encode())


class StoppedError(Exception):
    """Work ended because it was asked to, and can go on later."""


class TrainingStoppedError(StoppedError):
    """A training ended because it was asked to, and can go on later.

    Args:
      step: the last that was done and saved.
      total: steps of the training.
      path: the run directory.
    """

    def __init__(self, step: int, total: int, path: Path):
        super().__init__(
            f"stopped after step {step:,} of {total:,}, "
            + (f"which is saved in {path}; " if step else "before anything was to be saved; ")
            + f"the same command with --workdir {path} goes on"
        )
        self.step, self.total, self.path = step, total, path
