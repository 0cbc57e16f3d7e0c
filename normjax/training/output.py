"""What a command prints, where its output may be gone before it ends."""

import os
import sys
from typing import IO, Any, cast

from rich.console import Console


def steady_console(*, quiet: bool = False) -> Console:
    """A console on standard output; when that can no longer be written to, the rest is not printed and work goes on.

    Args:
      quiet: whether it prints nothing.
    """
    return Console(file=cast(IO[str], Steady(sys.stdout)), quiet=quiet)


class Steady:
    """A stream whose failure, as of a pipe that is closed or a full disk, is told once on standard error."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # What is buffered, and what others print, goes nowhere from now on.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        print(f"normjax: the output cannot be written ({error.strerror}); work goes on without it", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
