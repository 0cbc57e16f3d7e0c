"""Starts queued jobs, looks after those that run, and says what became of those that ended."""

import fcntl
import json
import logging
import threading
import time
from typing import Any, TextIO

from django.conf import settings
from django.db import close_old_connections
from django.utils import timezone
from django.utils.translation import gettext_noop

from normjax.app.complaints import without_paths
from normjax.app.housekeeping import tidy_up
from normjax.app.jobs import processes
from normjax.app.jobs.commands import command, output_file, result
from normjax.app.models import WITH_PROCESS, Run, Status
from normjax.errors import UserError

_log = logging.getLogger(__name__)
_PAUSE = 0.5  # seconds between two looks
_TIDY_EVERY = 3600.0
_ENDED = gettext_noop("It ended before its time; its log may tell why.")


class Supervisor:
    """A thread that carries jobs from queued to their end; of several servers on one home, one does it.

    All that it knows is in the database and in the processes, so that it may end anywhere: the next one goes on.
    """

    def __init__(self) -> None:
        self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
        self._ended = threading.Event()
        self._lock: TextIO | None = None
        self._children: dict[str, processes.subprocess.Popen] = {}
        self._killed_at: dict[str, float] = {}  # when a job that was asked to stop is ended, by the monotonic clock
        self._tidied = -_TIDY_EVERY

    def start(self) -> None:
        """Begins to look after the jobs, in a thread."""
        self._thread.start()

    def run(self) -> None:
        """Looks again and again, until ``stop``."""
        while not self._ended.is_set():
            try:
                close_old_connections()
                if self.take_over():
                    self.look()
            except Exception:  # noqa: BLE001 - a full disk or a locked database passes; without us all jobs wait for ever
                _log.exception("the supervisor could not do its work; it tries again")
            self._ended.wait(_PAUSE)

    def stop(self) -> None:
        """Ends the thread; jobs go on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(10)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def take_over(self) -> bool:
        """Whether this supervisor is the one of its home."""
        if self._lock is None:
            file = settings.HOME.supervisor_lock.open("a")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock = file
        return True

    def look(self) -> None:
        """One round: every job with a process, then as many of the queue as there is room for."""
        for run in Run.objects.filter(status__in=WITH_PROCESS).select_related("parent", "data_set"):
            self._look_after(run)
        free = settings.MAX_JOBS_AT_ONCE - Run.objects.filter(status__in=WITH_PROCESS).count()
        if free > 0:
            for run in Run.objects.filter(status=Status.QUEUED).order_by("queued")[:free]:
                self._start(run)
        if time.monotonic() - self._tidied > _TIDY_EVERY:
            self._tidied = time.monotonic()
            tidy_up()

    def _start(self, run: Run) -> None:
        claimed = Run.objects.filter(pk=run.pk, status=Status.QUEUED).update(
            status=Status.STARTING, started=timezone.now(), ended=None, pid=None, message="", stop_sent=False
        )
        if not claimed:  # stopped by its owner meanwhile
            return
        try:
            run.path.mkdir(exist_ok=True)
            if run.kind == Run.Kind.TRAIN:
                draft = run.path / "config.json.draft"
                draft.write_text(json.dumps(run.config, indent=2))
                draft.replace(run.path / "config.json")
            child = processes.start(command(run), run.path, output_file(run), run.log)
        except (OSError, UserError) as error:
            self._conclude(run, Status.FAILED, without_paths(str(error)))
            return
        self._children[run.pk] = child
        Run.objects.filter(pk=run.pk).update(pid=child.pid)

    def _look_after(self, run: Run) -> None:
        child = self._children.get(run.pk)
        code = child.poll() if child is not None else None
        process = processes.find(run.pid, run.path) if code is None else None
        if process is None:
            if child is not None and code is None:
                code = child.wait(5)  # it has ended since the line above
            self._ended_job(run, code)
        elif run.pid is None:  # the server ended between starting it and writing that down
            Run.objects.filter(pk=run.pk).update(pid=process.pid)
        elif run.status == Status.STOPPING:
            self._stop(run, process)
        elif run.status == Status.STARTING and (run.kind != Run.Kind.TRAIN or (run.directory / "config.json").exists()):
            Run.objects.filter(pk=run.pk, status=Status.STARTING).update(status=Status.RUNNING)

    def _stop(self, run: Run, process: "processes.psutil.Process") -> None:
        """Asks once, since a second signal would end a training without saving it; ends it after the grace."""
        deadline = self._killed_at.setdefault(run.pk, time.monotonic() + settings.STOP_GRACE_SECONDS)
        if not run.stop_sent:
            Run.objects.filter(pk=run.pk).update(stop_sent=True)
            processes.ask_to_end(process)
        elif time.monotonic() > deadline:
            processes.end(process)

    def _ended_job(self, run: Run, code: int | None) -> None:
        """Says what became of a job whose process is gone; ``code`` is None where another server started it."""
        if result(run) is not None:
            self._conclude(run, Status.FINISHED)
        elif run.status == Status.STOPPING:
            self._conclude(run, Status.STOPPED)
        elif run.status == Status.STARTING and run.pid is None:
            # The server ended before the process was made: nothing has happened yet.
            Run.objects.filter(pk=run.pk, status=Status.STARTING, pid=None).update(status=Status.QUEUED)
        elif code == 0:
            self._conclude(run, Status.STOPPED)
        elif complaint := _complaint(run):
            self._conclude(run, Status.FAILED, complaint)
        elif code is not None and code > 0:
            self._conclude(run, Status.FAILED, _ENDED)
        else:
            self._conclude(run, Status.INTERRUPTED)

    def _conclude(self, run: Run, status: Any, message: str = "") -> None:
        Run.objects.filter(pk=run.pk, status__in=WITH_PROCESS).update(
            status=status, message=message[:2000], ended=timezone.now(), pid=None
        )
        self._children.pop(run.pk, None)
        self._killed_at.pop(run.pk, None)
        _log.info("run %s: %s", run.pk, status.value)


def _complaint(run: Run) -> str:
    """The error that the command told at its end, without what it says of the machine's directories."""
    try:
        with run.log.open("rb") as file:
            file.seek(max(0, run.log.stat().st_size - 8192))
            tail = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    last = next((line for line in reversed(tail) if line.strip()), "")
    told = last.removeprefix("normjax: error: ")
    return without_paths(told) if told != last else ""
