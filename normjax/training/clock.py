"""Where the seconds of a run go."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds by activity; one activity interrupts the other, so that no second is counted twice.

    Example:
      >>> clock = Clock()
      >>> with clock("training"):
      ...     with clock("evaluation"):
      ...         pass
      >>> sorted(clock.seconds)
      ['evaluation', 'training']
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[str] = []
        self._since = time.perf_counter()

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        self._settle()
        self._running.append(activity)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def add(self, seconds: dict[str, float]) -> None:
        """Counts the seconds of an earlier part of the same run too."""
        for activity, value in seconds.items():
            self.seconds[activity] = self.seconds.get(activity, 0.0) + value

    def read(self) -> dict[str, float]:
        """Seconds of each activity up to now."""
        self._settle()
        return dict(self.seconds)

    def _settle(self) -> None:
        now = time.perf_counter()
        if self._running:
            activity = self._running[-1]
            self.seconds[activity] = self.seconds.get(activity, 0.0) + now - self._since
        self._since = now
