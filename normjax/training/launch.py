"""Starts a run of several processes on one machine, for development: what a cluster's scheduler does on many."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

from normjax.errors import UserError
from normjax.training.cluster import LOST
from normjax.training.output import Steady

_GRACE_SECONDS = 10  # from the first process that failed to the end of the others


def launch(command: Sequence[str], processes: int, devices: int | None = None) -> int:
    """Runs a command in several processes that find each other, and waits for all of them.

    Each gets ``--distributed`` and where the first one is. What they print comes out with the number of the process
    before each line. SIGTERM and SIGINT go on to all of them, SIGHUP as SIGTERM. When one fails the others are stopped.

    Args:
      command: ``train.py`` or another program of the project, and its options.
      processes: how many.
      devices: simulated devices of each, on a CPU; None leaves it to the machine.

    Returns:
      The exit status of the first process that failed by itself and not for the loss of another one (128 and the
      number of the signal where one ended it), or 0.

    Raises:
      UserError: the command cannot be started.
    """
    address = f"127.0.0.1:{_free_port()}"
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if devices is not None:
        environment["JAX_NUM_CPU_DEVICES"] = str(devices)
    # A script, or options of Python as in `-m normjax`.
    python = [sys.executable] if command[0].endswith(".py") or command[0].startswith("-") else []
    running: list[subprocess.Popen[str]] = []
    printers: list[threading.Thread] = []
    output = Steady(sys.stdout)
    try:
        for number in range(processes):
            place = ["--distributed", "--coordinator", address, "--processes", str(processes), "--process", str(number)]
            process = subprocess.Popen(
                [*python, *command, *place],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C on the terminal is for this process, which passes it on once.
                start_new_session=True,
            )
            running.append(process)
            assert process.stdout is not None
            printers.append(threading.Thread(target=_print_lines, args=(process.stdout, f"[{number}] ", output)))
            printers[-1].start()
        status = _wait(running)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be started: {error.strerror}.") from error
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
        for printer in printers:
            printer.join()
    return status


def _wait(running: list[subprocess.Popen[str]]) -> int:
    """The status of the first that failed, once all have ended or had the time to."""

    def pass_on(number: int, _frame: object) -> None:
        for process in running:
            if process.poll() is None:
                # A terminal that is closed is a wish to end, too.
                process.send_signal(signal.SIGTERM if number == signal.SIGHUP else number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    failed, deadline = 0, float("inf")
    try:
        while None in [process.poll() for process in running] and time.monotonic() < deadline:
            if not failed and (failed := _failure(running)):
                deadline = time.monotonic() + _GRACE_SECONDS
            time.sleep(0.05)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # A look at a busy machine may come when those that were left behind have ended as well.
    failed = failed if failed not in (0, LOST) else _failure(running)
    return 128 - failed if failed < 0 else failed


def _failure(running: list[subprocess.Popen[str]]) -> int:
    """The status of a process that failed, of one that did so by itself where there is one; or 0."""
    bad = [process.returncode for process in running if process.returncode]
    return next((status for status in bad if status != LOST), LOST if bad else 0)


def _print_lines(stream: IO[str], prefix: str, output: Steady) -> None:
    # To the end, whoever still listens: a full pipe would hold the process up.
    for line in stream:
        # One write, so that lines of two processes do not mix.
        output.write(prefix + line.rstrip("\n") + "\n")
        output.flush()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
