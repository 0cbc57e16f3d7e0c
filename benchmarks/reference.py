"""What a reference batch costs: milliseconds of a training step under each refresh rule, beside batch norm.

    python -m benchmarks.reference

Images of CIFAR-10's shape, drawn at random; each contender in a process of its own, in turn. A refresh every k steps is
the step without one and a k-th of a reference pass.
"""

import json
import time
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from normjax.data import DatasetInfo
from normjax.training.config import TrainConfig, parse_config
from normjax.training.session import build_session

REFERENCE = 64
EVERY = 10
NETWORKS = ("convnet", "resnet20")
BATCHES = (64, 128)
MODES = ("virtual", "mixed", "fixed", "renorm")
# Name: options of the norm, refresh rule.
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    **{f"{mode}, every step": ({"mode": mode}, 1) for mode in MODES},
    "virtual, every step, no gradient": ({"reference_gradient": False}, 1),
    f"virtual, every {EVERY} steps": ({}, EVERY),
    "virtual, once": ({}, "once"),
    "mixed, once": ({"mode": "mixed"}, "once"),
}
_INFO = DatasetInfo(
    name="noise",
    classes=tuple("0123456789"),
    image_shape=(32, 32, 3),
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    train_examples=50_000,
    validation_examples=0,
    test_examples=1,
)


def make_config(name: str, network: str, batch: int) -> TrainConfig:
    """The config of a contender."""
    fields: dict[str, Any] = {"batch_size": batch, "model": {"name": network, "widths": (16, 32, 64)}}
    if name != "batch norm":
        options, refresh = RULES[name]
        fields |= {
            "norm": {"name": "reference_batch_norm", "options": options},
            "reference": {"size": REFERENCE, "refresh": refresh},
        }
    return parse_config(fields)


def contender(name: Annotated[str, tyro.conf.Positional], network: str, batch: int, steps: int = 20) -> None:
    """One contender; prints one line of JSON.

    Args:
        name: batch norm, or a rule
        network: which
        batch: images of a step
        steps: how many are timed
    """
    config = make_config(name, network, batch)
    session = build_session(config, _INFO, jax.devices()[:1])
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (batch, 32, 32, 3), np.uint8)
    reference = generator.integers(0, 256, (REFERENCE, 32, 32, 3), np.uint8) if config.has_reference else None
    parallel = session.parallel
    state = parallel.replicate(session.initial_state(reference))
    rows = parallel.shard({"image": pixels, "label": generator.integers(0, 10, batch).astype(np.int32)})
    step = parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    refresh = session.refresh and parallel.map(session.refresh, "replicated", inputs=("replicated",), donate=True)
    times = []
    for number in range(1, steps + 1 + EVERY):
        start = time.perf_counter()
        if session.refreshes_before(number):
            state = refresh(state)
        state, _ = step(state, rows)
        jax.block_until_ready(state)
        times.append(time.perf_counter() - start)
    # The first steps compile and warm up; a refresh belongs to the steps behind it.
    timed = np.array(times[EVERY:]) * 1e3
    print(json.dumps({"ms": float(timed.reshape(-1, EVERY).mean(1).min() if refresh else np.median(timed))}))


def main(networks: tuple[str, ...] = NETWORKS, rounds: int = 3, threads: int = 2) -> None:
    """Prints a table for each network and batch.

    Args:
        networks: which
        rounds: how often each contender runs
        threads: processors a contender may use
    """
    for network in networks:
        for batch in BATCHES:
            table = Table("rule", "ms a step", "times batch norm", "(n + B) / B", title=f"{network}, batch of {batch}")
            where = ["--network", network, "--batch", str(batch)]
            commands = {
                name: ["-m", "benchmarks.reference", "contender", name, *where] for name in ("batch norm", *RULES)
            }
            results = run_in_turn(commands, rounds=rounds, threads=threads)
            for name in commands:
                ratios = [a["ms"] / b["ms"] for a, b in zip(results[name], results["batch norm"], strict=True)]
                bound = f"{(REFERENCE + batch) / batch:.2f}" if "every step" in name else ""
                ms, ratio = median(results[name], "ms"), np.median(ratios)
                table.add_row(name, f"{ms:.1f}", f"{ratio:.2f}", bound)
            Console().print(table)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(main)
