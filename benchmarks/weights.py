"""What a weight norm costs: milliseconds of a training step beside the same step without one.

    python -m benchmarks.weights

ConvNet on images of CIFAR-10's shape, drawn at random; each contender in a process of its own, in turn. Groups of the
orthogonal base have 64 rows, where the fan-in allows.
"""

import json
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn
from benchmarks.training_step import seconds_of_steps, session_of
from normjax.training.config import parse_config

PLAIN = "none"
# Name: the section weight_norm of the config.
CONTENDERS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "weight norm": {"name": "weight_norm"},
    "weight norm, NM": {"name": "structural", "options": {"base": "weight_norm", "measure": "neuron"}},
    "orthogonal": {"name": "orthogonal"},
    "orthogonal, eigh": {"name": "orthogonal", "options": {"method": "eigh"}},
    "orthogonal, NM": {"name": "structural", "options": {"measure": "neuron"}},
    "orthogonal, SM": {"name": "structural", "options": {"measure": "sparsity", "strength": 0.05}},
}
# Name: widths, hidden dense layers.
FORMS = {"published": ((64, 128, 256), (256, 256)), "narrow": ((16, 32, 64), (64,))}
_WARM = 2  # steps that compile and warm up


def contender(name: Annotated[str, tyro.conf.Positional], form: str, batch: int, steps: int) -> None:
    """One contender; prints one line of JSON.

    Args:
        name: of the weight norm
        form: published or narrow
        batch: images of a step
        steps: how many are timed
    """
    widths, dense = FORMS[form]
    model = {"name": "convnet", "widths": widths, "dense": dense}
    config = parse_config({"batch_size": batch, "model": model, "weight_norm": CONTENDERS[name]})
    seconds = seconds_of_steps(session_of(config), _WARM + steps)[_WARM:]
    # The fastest: whatever else the machine does only adds.
    print(json.dumps({"ms": min(seconds) * 1e3}))


def main(
    forms: tuple[str, ...] = tuple(FORMS), batch: int = 128, rounds: int = 3, steps: int = 8, threads: int = 2
) -> None:
    """Prints a table for each form of the network.

    Args:
        forms: published, narrow
        batch: images of a step
        rounds: how often each contender runs
        steps: how many are timed each time
        threads: processors a contender may use
    """
    for form in forms:
        table = Table("weight norm", "ms a step", "times none", title=f"ConvNet, {form}, batch of {batch}")
        options = ["--form", form, "--batch", str(batch), "--steps", str(steps)]
        commands = {name: ["-m", "benchmarks.weights", "contender", name, *options] for name in CONTENDERS}
        results = run_in_turn(commands, rounds=rounds, threads=threads)
        for name in commands:
            ratios = [a["ms"] / b["ms"] for a, b in zip(results[name], results[PLAIN], strict=True)]
            table.add_row(name, f"{median(results[name], 'ms'):.1f}", f"{np.median(ratios):.3f}")
        Console().print(table)


if __name__ == "__main__":
    import sys

    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(main)
