"""Kills trainings with SIGKILL, many while a checkpoint is written, and asks whether they end with the same bits.

    python -m benchmarks.kills --kills 50 --while-saving 15

Each run trains a network on the digits in processes of its own, is killed and started again until it is done; then its
last checkpoint is compared with that of a run that was never killed. Takes some ten minutes on two cores.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

# Large for its task, so that writing a checkpoint takes a while.
_OPTIONS = (
    *("--epochs", "2", "--model.name", "mlp", "--model.widths", "1024", "1024"),
    *("--run.checkpoint-every", "4", "--run.log-every", "4", "--run.keep", "2"),
)


class Kills(NamedTuple):
    """What became of the runs."""

    kills: int
    while_saving: int  # of these, with an unfinished checkpoint on disk afterwards
    runs: int  # that came to their end
    same: int  # of these, with the bits of the run never killed
    set_aside: int  # checkpoints that were found damaged
    seconds: float


def kill_runs(kills: int, while_saving: int, *, seed: int = 0, log: Console | None = None) -> Kills:
    """Starts and kills runs until there were enough kills, and lets the last run end.

    Args:
      kills: how many.
      while_saving: how many of them in the middle of a checkpoint.
      seed: decides the moments.
      log: is told of every kill.
    """
    rng, log, begun = random.Random(seed), log or Console(quiet=True), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    straight = folder / "straight"
    started = time.monotonic()
    assert _start(straight).wait() == 0, (straight.parent / "straight.log").read_text()
    usual = time.monotonic() - started
    expected, killed, saving, runs, same, aside = _bits(straight), 0, 0, 0, 0, 0
    while True:
        path = folder / f"run{runs}"
        while True:
            process = _start(path)
            if killed < kills:
                # What is wanted most comes first as long as it is wanted.
                in_save = saving < while_saving and (kills - killed <= while_saving - saving or rng.random() < 0.5)
                _wait_for_save(process, path, rng) if in_save else _sleep(process, rng.uniform(0.2, 1.0) * usual)
            else:
                process.wait()
            if process.poll() is not None:
                assert process.returncode == 0, path.with_suffix(".log").read_text()
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            drafts = sorted(entry.name for entry in (path / "checkpoints").glob("*tmp*"))
            killed, saving = killed + 1, saving + bool(drafts)
            log.print(
                f"kill {killed} of run {runs}: {f'while writing {drafts[0]}' if drafts else 'between checkpoints'}"
            )
        runs, same = runs + 1, same + (_bits(path) == expected)
        aside += len(list((path / "damaged").glob("*")))
        shutil.rmtree(path)
        if killed >= kills:
            break
    shutil.rmtree(folder)
    return Kills(killed, saving, runs, same, aside, time.monotonic() - begun)


def _start(path: Path) -> subprocess.Popen[bytes]:
    compiled = {
        "JAX_COMPILATION_CACHE_DIR": str(path.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with path.with_suffix(".log").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "normjax", "train", *_OPTIONS, "--workdir", str(path)],
            env={**os.environ, **compiled},
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def _wait_for_save(process: subprocess.Popen[bytes], path: Path, rng: random.Random) -> None:
    """Until a checkpoint is on its way, and a little longer."""
    before = {entry.name for entry in (path / "checkpoints").glob("*tmp*")}
    skipped = rng.randrange(3)  # not always the first
    while process.poll() is None:
        new = {entry.name for entry in (path / "checkpoints").glob("*tmp*")} - before
        if new and not skipped:
            time.sleep(rng.uniform(0, 0.01))
            return
        if new:
            skipped, before = skipped - 1, before | new
        time.sleep(0.001)


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def _bits(path: Path) -> bytes:
    """All numbers of the last checkpoint."""
    import jax

    from normjax.training.evaluate import restore_run

    _, state, _ = restore_run(path, "last")
    return b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))


def main(kills: int = 50, while_saving: int = 15, seed: int = 0) -> None:
    """Kills runs and prints what became of them.

    Args:
        kills: how many
        while_saving: how many of them in the middle of a checkpoint
        seed: decides the moments
    """
    console = Console(width=120)
    result = kill_runs(kills, while_saving, seed=seed, log=console)
    table = Table("kills", "while saving", "runs", "with the same bits", "checkpoints set aside", "minutes")
    table.add_row(*map(str, result[:5]), f"{result.seconds / 60:.0f}")
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
