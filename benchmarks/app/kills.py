"""kill -9 of server (with its supervisor), trainer and recogniser at random moments, while runs go through the queue.

    python -m benchmarks.app.kills --kills 50        # about twenty minutes on 2 cores

After it every run has come to its end, none was begun twice, and the curve of each is that of a run never disturbed.
"""

import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import psutil

from benchmarks.app.server import Server

RUNS = 6
CONFIG = {"epochs": 20, "schedule": {"warmup_epochs": 1}, "run": {"log_every": 10, "checkpoint_every": 20}}


def rows(server: Server) -> list[dict[str, Any]]:
    """All runs as the database has them, whether the server lives or not."""
    with sqlite3.connect(server.home / "app.sqlite3", timeout=30) as database:
        database.row_factory = sqlite3.Row
        found = [dict(row) for row in database.execute("select id, status, pid from normjax_app_run")]
    database.close()
    return found


def trainers(run: str) -> list[psutil.Process]:
    """Living processes of a run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(f"/{run}/run" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    return found


def kill_something(server: Server, dice: random.Random) -> str:
    """Kills one of the three; says which."""
    which = dice.choice(["server", "trainer", "recogniser"])
    if which == "server":
        server.stop(signal.SIGKILL)
        server.start()
        return which
    assert server.process is not None
    words = "recognition.worker" if which == "recogniser" else "train"
    for process in psutil.Process(server.process.pid).children(recursive=False) + [
        found for row in rows(server) for found in trainers(row["id"])
    ]:
        try:
            if any(words in word for word in process.cmdline()):
                os.kill(process.pid, signal.SIGKILL)
                return which
        except (psutil.Error, ProcessLookupError):
            continue
    return f"no {which}"


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8766)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NORMJAX_APP_NICE"] = "0"  # whatever else runs, the queue moves
        server = Server(Path(folder) / "home", options.port)
        server.start()
        server.make_user()
        try:
            torment(server, dice, options.kills)
        finally:
            server.stop()


def torment(server: Server, dice: random.Random, kills: int) -> None:
    """Runs, kills, and what is true afterwards."""
    reference = server.submit(**CONFIG)
    server.wait(reference, "finished")
    expected = metrics(server, reference)
    runs = [server.submit(**CONFIG) for _ in range(RUNS)]
    asking = threading.Event()

    def recognise() -> None:
        while not asking.is_set():
            try:
                server.ask("GET", f"/runs/{reference}/activations")
            except OSError:
                asking.wait(0.2)  # the server or the recogniser is down, which is what this is about

    thread = threading.Thread(target=recognise)
    thread.start()
    counts: dict[str, int] = {}
    done = 0
    while done < kills:
        time.sleep(dice.uniform(0.2, 6))
        which = kill_something(server, dice)
        counts[which] = counts.get(which, 0) + 1
        done += not which.startswith("no ")
        print(f"{done:3d} {which}", flush=True)
        for row in rows(server):
            assert len(trainers(row["id"])) <= 1, f"run {row['id']} has two trainers"
        resume(server, runs)
        if all(row["status"] == "finished" for row in rows(server)):
            runs += [server.submit(**CONFIG) for _ in range(RUNS)]
    asking.set()
    thread.join()
    for run in runs:
        while server.wait(run, "finished", "interrupted", "failed", "stopped")["status"] != "finished":
            resume(server, [run])
        assert metrics(server, run) == expected, f"run {run} has another curve"
    assert {row["id"] for row in rows(server)} == {reference, *runs}, "a run was lost"
    print(f"{kills} kills ({counts}); {len(runs)} runs, all finished, each with the curve of a run never disturbed")


def resume(server: Server, runs: list[str]) -> None:
    """Goes on with what was interrupted, as its owner would."""
    for run in runs:
        told = server.ask("GET", f"/runs/{run}")
        assert told["status"] not in ("failed", "stopped"), f"run {run} is {told['status']}: {told['message']}"
        if told["status"] == "interrupted":
            server.ask("POST", f"/runs/{run}/resume")


def metrics(server: Server, run: str) -> list[dict[str, Any]]:
    """The lines of validation and test, which do not depend on where a run was cut."""
    file = server.home / "runs" / run / "run" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [line for line in lines if line["split"] != "train"]


if __name__ == "__main__":
    main()
