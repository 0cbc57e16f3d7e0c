"""Memory and open files of one long training, with many checkpoints and evaluations.

    python -m benchmarks.soak --minutes 30

Trains the digits network without end, samples the process every few seconds, stops it by SIGTERM, and compares the
first part after the warm-up with the last one.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

_EVERY = 5.0  # seconds between samples


class Sample(NamedTuple):
    """Of the process at one time."""

    mib: float  # of memory, resident
    files: int
    threads: int


def soak(minutes: float, console: Console) -> tuple[list[Sample], int]:
    """Runs a training for a while; returns its samples and how many epochs it came through."""
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    command = ["train", "--epochs", "1000000", "--run.checkpoint-every", "20", "--workdir", str(folder / "run")]
    samples = []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", "normjax", *command], stdout=log, stderr=subprocess.STDOUT)
        watched = psutil.Process(process.pid)
        for _ in track(range(round(60 * minutes / _EVERY)), "training …", console=console):
            time.sleep(_EVERY)
            if process.poll() is not None:
                raise SystemExit(f"the training ended: {(folder / 'log').read_text()[-500:]}")
            with watched.oneshot():
                memory = watched.memory_info().rss / 2**20
                samples.append(Sample(memory, watched.num_fds(), watched.num_threads()))
        process.send_signal(signal.SIGTERM)
        status = process.wait(120)
    text = (folder / "log").read_text()
    if status or "stopped after step" not in text:
        raise SystemExit(f"the training did not end in order: {text[-500:]}")
    return samples, text.count("validation loss")


def main(minutes: float = 30.0) -> None:
    """Prints how memory and open files have grown.

    Args:
        minutes: of training
    """
    console = Console(width=120)
    samples, epochs = soak(minutes, console)
    tenth = max(1, len(samples) // 10)
    # The first fifth compiles and fills caches.
    early, late = samples[2 * tenth : 3 * tenth], samples[-tenth:]
    table = Table("", "early", "late", "growth [%]", title=f"{minutes:g} minutes, {epochs:,} epochs of the digits")
    for name, index in (("memory [MiB]", 0), ("open files", 1), ("threads", 2)):
        before, after = (float(np.mean([sample[index] for sample in part])) for part in (early, late))
        table.add_row(name, f"{before:.1f}", f"{after:.1f}", f"{100 * (after / before - 1):+.1f}")
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
