"""Kills trainings with SIGKILL, many while a checkpoint is written, and asks whether they end with the same bits.

    python -m benchmarks.kills --kills 50 --while-saving 15

Each run trains a network on the digits in processes of its own, is killed and started again until it is done; then its
last checkpoint is compared with that of a run that was never killed.
"""

import contextlib
import os
import random
import shutil
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
    while_saving: int  # of these, with a checkpoint on disk that the killed process had begun
    runs: int  # that came to their end
    same: int  # of these, with the bits of the run never killed
    set_aside: int  # checkpoints that were found damaged
    seconds: float


def kill_runs(kills: int, while_saving: int, *, seed: int, log: Console) -> Kills:
    """Starts and kills runs until there were enough kills, and lets the last run end.

    Args:
      kills: how many.
      while_saving: how many of them in the middle of a checkpoint.
      seed: decides the moments.
      log: is told of every kill.
    """
    rng, begun = random.Random(seed), time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    straight, path = folder / "straight", folder / "run"
    _check_end(_start(straight), straight)
    usual = time.monotonic() - begun
    expected, killed, saving, runs, same, aside = _bits(straight), 0, 0, 0, 0, 0
    while killed < kills or path.exists():
        earlier, process = _drafts(path), _start(path)
        if killed < kills:
            # What is wanted most comes first as long as it is wanted.
            in_save = saving < while_saving and (kills - killed <= while_saving - saving or rng.random() < 0.5)
            if in_save:
                _wait_for_save(process, path, earlier, rng)
            else:
                _sleep(process, rng.uniform(0.2, 1.0) * usual)
            if process.poll() is None:
                process.kill()
                process.wait()
                begun_here = sorted(name for name, _ in _drafts(path) - earlier)
                killed, saving = killed + 1, saving + bool(begun_here)
                log.print(f"kill {killed}: {f'while writing {begun_here[0]}' if begun_here else 'between checkpoints'}")
                continue
        _check_end(process, path)
        runs, same = runs + 1, same + (_bits(path) == expected)
        aside += len(list((path / "damaged").glob("*")))
        shutil.rmtree(path)
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


def _check_end(process: subprocess.Popen[bytes], path: Path) -> None:
    if process.wait():
        raise SystemExit(f"a training failed: {path.with_suffix('.log').read_text()[-500:]}")


def _drafts(path: Path) -> set[tuple[str, int]]:
    """The unfinished checkpoints: name and number of the directory, since a later process may use the name again."""
    found = set()
    for entry in (path / "checkpoints").glob("*tmp*"):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            found.add((entry.name, entry.stat().st_ino))
    return found


def _wait_for_save(process: subprocess.Popen[bytes], path: Path, earlier: set, rng: random.Random) -> None:
    """Until the process has begun its first, second or third checkpoint, and a little longer."""
    seen, wanted = set(earlier), len(earlier) + rng.randrange(1, 4)
    while process.poll() is None:
        seen |= _drafts(path)
        if len(seen) >= wanted:
            time.sleep(rng.uniform(0, 0.01))
            return
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
    """Kills runs and prints what became of them; fails where one did not end as it should.

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
    if result.same < result.runs or result.set_aside or result.while_saving < while_saving:
        sys.exit(1)


if __name__ == "__main__":
    tyro.cli(main)
