"""How the processes of a run learn at once that another is gone, and why.

Each holds a line to the first one and says every few seconds that it is alive. JAX has a watch of its own, which may
take as long as its heartbeats to notice a lost process, and then aborts the others with its number at best.
"""

import contextlib
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence

_BEAT_SECONDS = 5.0
_SILENT_SECONDS = 60.0  # after which a process that says nothing is given up
_BYE, _ALIVE, _FAILED, _LOST = "bye", "alive", "failed", "lost"
_MOST = 4000  # characters of a reason

Report = Callable[[str], None]


class Watch:
    """The lines between the first process and each of the others.

    Args:
      process: which one this is.
      names: of all processes, for the report.
      report: is called with the news that a process was lost, from a thread.
    """

    def __init__(self, process: int, names: Sequence[str], report: Report):
        self._process, self._names, self._report = process, names, report
        self._lines: dict[int, socket.socket] = {}  # by the process at the other end
        self._threads: list[threading.Thread] = []
        self._writing = threading.Lock()
        self._leaving = threading.Event()
        self._listener: socket.socket | None = None
        self._secret = ""

    def open(self) -> str:
        """Makes the first process ready for the lines of the others, and returns where they find it."""
        # Strangers may stand in the queue.
        self._listener = socket.create_server(("", 0), backlog=128 + len(self._names))
        self._secret = secrets.token_hex(16)
        return f"{self._listener.getsockname()[1]} {self._secret}"

    def connect(self, host: str, place: str) -> None:
        """Opens the lines; called in all processes.

        Args:
          host: where the first process is.
          place: what ``open`` returned in the first process.

        Raises:
          OSError: a line could not be opened in time.
        """
        if self._listener is not None:
            self._listener.settimeout(_SILENT_SECONDS)
            while len(self._lines) < len(self._names) - 1:
                self._answer(self._listener.accept()[0])
            self._listener.close()
        else:
            port, secret = place.split()
            line = socket.create_connection((host, int(port)), timeout=_SILENT_SECONDS)
            line.sendall(f"{secret} {self._process}\n".encode())
            self._lines[0] = line
        for number, line in self._lines.items():
            self._start(self._listen, number, line)
        self._start(self._beat)

    def _answer(self, line: socket.socket) -> None:
        line.settimeout(_BEAT_SECONDS)
        with contextlib.suppress(OSError):  # of someone who knocks and goes
            secret, _, number = line.recv(100).decode(errors="replace").strip().partition(" ")
            # Anyone on the network may knock.
            if secrets.compare_digest(secret.encode(), self._secret.encode()) and number.isdigit():
                line.settimeout(_SILENT_SECONDS)
                self._lines[int(number)] = line
                return
        line.close()

    def leave(self) -> None:
        """Says good-bye; the first process waits for that of all others."""
        self._leaving.set()
        if self._process == 0:
            for thread in self._threads:
                thread.join()
        self._say(_BYE)
        for line in self._lines.values():
            line.close()

    def fail(self, reason: str) -> None:
        """Tells the others that this process has failed, and why, if they have not failed as well."""
        self._leaving.set()
        time.sleep(1)
        self._say(_FAILED, " ".join(reason.split())[:_MOST])

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True, name="watch"))
        self._threads[-1].start()

    def _beat(self) -> None:
        while not self._leaving.wait(_BEAT_SECONDS):
            self._say(_ALIVE)

    def _listen(self, number: int, line: socket.socket) -> None:
        """Hears what the process at the other end says, to its end."""
        # The end of the line without a word, or a minute without one.
        news = f"{self._names[number]} is gone"
        with contextlib.suppress(OSError), line.makefile(encoding="utf-8", errors="replace") as heard:
            for text in heard:
                word, _, reason = text.strip().partition(" ")
                if word == _BYE:
                    return
                if word in (_FAILED, _LOST):
                    news = f"{self._names[number]} has failed: {reason}" if word == _FAILED else reason
                    break
        self._lost(news)

    def _lost(self, news: str) -> None:
        if self._leaving.is_set():
            return
        self._leaving.set()
        # The others have a line to the first process only.
        self._say(_LOST, news)
        self._report(news)

    def _say(self, word: str, reason: str = "") -> None:
        with self._writing:
            for line in self._lines.values():
                # Who does not hear it any more is noticed by its own line.
                with contextlib.suppress(OSError):
                    line.sendall(f"{word} {reason}\n".encode())
