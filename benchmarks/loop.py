"""The whole training loop over one epoch, against the bare compiled step fed one constant batch.

    python -m benchmarks.loop --data-dir DATA

The loop reads, augments, moves, trains, measures and logs; evaluation and checkpoints have clocks of their own and do
not count. Both contenders run the same compiled step for as many steps, each in a process of its own, in turn.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from normjax.training.config import ScheduleConfig, TrainConfig, load_config

CONFIGS = {"ResNet-20, CIFAR-10": "configs/cifar10_resnet20_short.py", "ConvNet, digits": "configs/digits_convnet.py"}


def compare(data_dir: Path | None = None, rounds: int = 3, threads: int = 2) -> None:
    """Prints images a second of both contenders and their ratio, for each config.

    Args:
        data_dir: folder with CIFAR-10 as TFDS prepares it
        rounds: how often each contender runs
        threads: processors a contender may use
    """
    table = Table("network", "loop [images/s]", "bare step [images/s]", "ratio, median (rounds)")
    for name, file in CONFIGS.items():
        where = ["--data-dir", str(data_dir)] if data_dir else []
        commands = {
            kind: ["-m", "benchmarks.loop", "contender", kind, "--config", file, *where] for kind in ("loop", "bare")
        }
        results = run_in_turn(commands, rounds=rounds, threads=threads)
        speeds = {kind: [result["images_per_second"] for result in results[kind]] for kind in results}
        ratios = [a / b for a, b in zip(speeds["loop"], speeds["bare"], strict=True)]
        table.add_row(
            name,
            f"{median(results['loop'], 'images_per_second'):,.0f}",
            f"{median(results['bare'], 'images_per_second'):,.0f}",
            f"{np.median(ratios):.3f} ({', '.join(f'{ratio:.3f}' for ratio in ratios)})",
        )
    Console().print(table)


def contender(
    kind: Annotated[Literal["loop", "bare"], tyro.conf.Positional], config: Path, data_dir: Path | None = None
) -> None:
    """One contender; prints one line of JSON.

    Args:
        kind: which
        config: what to train, for one epoch
        data_dir: folder with the data
    """
    full = load_config(config)
    schedule = ScheduleConfig(name="one_cycle")
    speed = (_loop if kind == "loop" else _bare)(
        full.model_copy(update={"epochs": 1.0, "schedule": schedule}), data_dir
    )
    print(json.dumps({"images_per_second": speed}))


def _loop(config: TrainConfig, data_dir: Path | None) -> float:
    from normjax.training.loop import train

    with tempfile.TemporaryDirectory() as directory:
        return train(config, Path(directory) / "run", data_dir=data_dir)["images_per_second"]


def _bare(config: TrainConfig, data_dir: Path | None) -> float:
    from normjax.data import load_dataset, training_batches
    from normjax.training.session import build_session

    dataset = load_dataset(config.data, seed=config.seed, data_dir=data_dir)
    session = build_session(config, dataset.info)
    batches = training_batches(
        dataset.train, dataset.augment, batch_size=config.batch_size, seed=config.seed, start=0, stop=1
    )
    batch = session.parallel.shard(next(batches))
    state = session.parallel.replicate(session.initial_state())
    step = session.parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    step = step.lower(state, batch).compile()
    start = time.perf_counter()
    for _ in range(session.total_steps):
        state, _ = step(state, batch)
    jax.block_until_ready(state)
    return session.total_steps * config.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(compare)
