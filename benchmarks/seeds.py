"""The main job, `python train.py`, for five seeds: test accuracy and seconds of each whole command.

python -m benchmarks.seeds
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table


def main(seeds: int = 5) -> None:
    """Prints the table.

    Args:
        seeds: how many, from 0
    """
    table = Table("seed", "test accuracy [%]", "whole command [s]", "training [images/s]")
    accuracies, durations = [], []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as directory:
            workdir = Path(directory) / "run"
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, "train.py", "--seed", str(seed), "--workdir", str(workdir)],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            durations.append(time.perf_counter() - start)
            summary = json.loads((workdir / "summary.json").read_text())
        accuracies.append(100 * summary["test"]["accuracy"])
        table.add_row(
            str(seed), f"{accuracies[-1]:.2f}", f"{durations[-1]:.1f}", f"{summary['images_per_second']:,.0f}"
        )
    table.add_row("mean", f"{statistics.mean(accuracies):.2f}", f"{statistics.mean(durations):.1f}", "")
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
