"""What a reference batch costs: milliseconds of a training step under each refresh rule, beside batch norm.

    python -m benchmarks.reference

Images of CIFAR-10's shape, drawn at random; each contender in a process of its own, in turn. A refresh every k steps is
the step without one and a k-th of a reference pass.
"""

import json
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from benchmarks.training_step import seconds_of_steps, session_of
from normjax.training.config import TrainConfig, parse_config

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
    session = session_of(make_config(name, network, batch))
    times = seconds_of_steps(session, steps + EVERY)
    # The first steps compile and warm up; a refresh belongs to the steps behind it.
    timed = np.array(times[EVERY:]) * 1e3
    averaged = session.refresh is not None
    print(json.dumps({"ms": float(timed.reshape(-1, EVERY).mean(1).min() if averaged else np.median(timed))}))


def main(
    networks: tuple[str, ...] = NETWORKS,
    batches: tuple[int, ...] = BATCHES,
    rules: tuple[str, ...] = tuple(RULES),
    rounds: int = 3,
    threads: int = 2,
) -> None:
    """Prints a table for each network and batch.

    Args:
        networks: which
        batches: images of a step
        rules: which, for example "renorm, every step"
        rounds: how often each contender runs
        threads: processors a contender may use
    """
    for network in networks:
        for batch in batches:
            table = Table("rule", "ms a step", "times batch norm", "(n + B) / B", title=f"{network}, batch of {batch}")
            where = ["--network", network, "--batch", str(batch)]
            commands = {
                name: ["-m", "benchmarks.reference", "contender", name, *where] for name in ("batch norm", *rules)
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
