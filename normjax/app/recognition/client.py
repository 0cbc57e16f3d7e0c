"""How the app asks the recogniser: one request at a time, with few that wait and none that waits for ever."""

import functools
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from normjax.app.complaints import without_paths
from normjax.app.home import VARIABLE
from normjax.errors import UserError

_TIMEOUT = 120.0  # seconds of a request, the loading of networks and data included
_WAITING = 8  # requests at a time, that which is answered included
_OF_A_USER = 3  # of these


class RecognitionError(Exception):
    """The recogniser is busy, was too slow, or failed; it serves the next request nevertheless."""


class Recogniser:
    """A process with trained networks, started when it is first needed and again when it has died.

    Args:
      log: file for what it complains of.
      timeout: seconds of a request.
    """

    def __init__(self, log: Path, timeout: float = _TIMEOUT):
        self._log, self._timeout = log, timeout
        self._turn, self._counting = threading.Lock(), threading.Lock()
        self._open: Counter[int] = Counter()  # requests of each user
        self._process: subprocess.Popen | None = None
        self._unread = b""

    @property
    def pid(self) -> int | None:
        """Of the process, where there is one."""
        return self._process.pid if self._process else None

    def ask(self, do: str, run: Path, user: int, **arguments: Any) -> Any:
        """What a request gives.

        Args:
          do: what, as ``worker.answer`` knows it.
          run: the run directory.
          user: who asks: nobody takes all places.
          **arguments: of the request, plain data.

        Raises:
          UserError: it cannot be done; the message says why, without paths.
          RecognitionError: there was no answer.
        """
        with self._place(user):
            if not self._turn.acquire(timeout=self._timeout):
                raise RecognitionError("busy")
            try:
                told = self._exchange({"do": do, "run": str(run), **arguments})
            finally:
                self._turn.release()
        if "error" in told:
            raise UserError(_(without_paths(told["error"])))
        if "fault" in told:
            raise RecognitionError(told["fault"])
        return told["ok"]

    @contextmanager
    def _place(self, user: int) -> Iterator[None]:
        """One of the few places, for as long as a request waits and is answered."""
        with self._counting:
            if self._open.total() >= _WAITING or self._open[user] >= _OF_A_USER:
                raise RecognitionError("busy")
            self._open[user] += 1
        try:
            yield
        finally:
            with self._counting:
                self._open[user] -= 1
                self._open += Counter()  # forgets those without a request

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        self._unread = b""
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = self._start()
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), json.dumps(request).encode() + b"\n")
            return json.loads(self._line(self._process))
        except (OSError, TimeoutError) as error:
            self.close()
            raise RecognitionError("timeout" if isinstance(error, TimeoutError) else "ended") from error

    def _line(self, process: subprocess.Popen) -> bytes:
        """The next line; raises where none comes in time or the process ends."""
        assert process.stdout is not None
        deadline = time.monotonic() + self._timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise BrokenPipeError
            self._unread += part
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _start(self) -> subprocess.Popen:
        # On the CPU, whatever else there is: a training keeps its accelerator to itself.
        environment = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "XLA_FLAGS")}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "normjax.app.recognition.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,
                env={**environment, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
            )


@functools.cache
def recogniser() -> Recogniser:
    """The recogniser of this server."""
    return Recogniser(settings.HOME.recognition_log)
