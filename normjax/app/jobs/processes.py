"""Processes of jobs: started so that they outlive the server, and found again by a server started later."""

import os
import resource
import signal
import subprocess
from pathlib import Path

import psutil
from django.conf import settings

_MAX_FILE = 16 * 2**30  # bytes of one file that a job may write


def start(words: list[str], marker: Path, output: Path, log: Path) -> subprocess.Popen:
    """Starts a command in a session of its own, which no Ctrl-C of the server reaches.

    Args:
      words: the command.
      marker: a path among the words that no other process has.
      output: what it prints is appended to this file (it begins anew where it is another than the log).
      log: where its complaints go.

    Raises:
      OSError: a file cannot be written, or the process not be made.
    """
    assert any(str(marker) in word for word in words)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NORMJAX_APP_", "DJANGO_"))}
    with log.open("ab") as errors, output.open("ab" if output == log else "wb") as lines:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=lines,
            stderr=errors,
            start_new_session=True,
            env={**kept, "PYTHONUNBUFFERED": "1", "COLUMNS": "110", "NO_COLOR": "1"},
        )
    _limit(child.pid)
    return child


def find(pid: int | None, marker: Path) -> psutil.Process | None:
    """The living process of a job; where its number was not written down in time, the one whose command names the run.

    The command tells it from another process that has got the number since. The time it was created at would as well,
    but Linux tells that relative to a clock that may have been set.
    """
    if pid is not None:
        try:
            process = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return None
        return process if _is(process, marker) else None
    return next((process for process in psutil.process_iter() if _is(process, marker)), None)


def ask_to_end(process: psutil.Process) -> None:
    """Lets a training finish its step and save."""
    _send(process, signal.SIGTERM)


def end(process: psutil.Process) -> None:
    """Ends a process and what it started, at once."""
    _send(process, signal.SIGKILL)


def _is(process: psutil.Process, marker: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and any(str(marker) in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        # The job leads a group; SIGTERM is for itself alone, which ends its helpers in order.
        os.killpg(process.pid, number) if number == signal.SIGKILL else process.send_signal(number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return  # it has ended meanwhile, which the next look finds


def _limit(pid: int) -> None:
    """Keeps a job from taking the machine: a low priority, and limits of the size of files and of memory."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, settings.JOB_NICE)
        if hasattr(resource, "prlimit"):
            memory = psutil.virtual_memory().total
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
            resource.prlimit(pid, resource.RLIMIT_DATA, (memory, memory))
    except ProcessLookupError:
        return  # it has ended already
