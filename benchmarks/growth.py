"""What each layer costs beside BatchNorm, and how the cost grows with channels, batch and group size: table and figure.

    python -m benchmarks.growth --figure docs/images/cost_growth.png

Forward and backward pass in float32 on one thread; every layer in a process of its own, in turn. Takes 15 minutes.
Without ``--figure`` there is the table alone, with ``--layers`` of some of them beside BatchNorm.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import run_in_turn
from benchmarks.layers import measure_module

_BATCH, _SIDE, _CHANNELS, _GROUP = 64, 16, 64, 16
_CHANNELS_TRIED = (16, 32, 64, 128, 256)
_BATCHES_TRIED = (8, 16, 32, 64, 128)
_GROUPS_TRIED = (4, 8, 16, 32, 64)

# Name: layer, options, whether it whitens groups of channels.
LAYERS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "BatchNorm": ("batch_norm", {}, False),
    "GhostBatchNorm": ("ghost_batch_norm", {"ghost_batch_size": 8}, False),
    "BatchRenorm": ("batch_renorm", {}, False),
    "ReferenceBatchNorm, virtual": ("reference_batch_norm", {}, False),
    "ReferenceBatchNorm, mixed": ("reference_batch_norm", {"mode": "mixed"}, False),
    "DecorrelatedBatchNorm": ("decorrelated_batch_norm", {}, True),
    "DecorrelatedBatchNorm, eigh": ("decorrelated_batch_norm", {"method": "eigh"}, True),
    "DecorrelatedLayerNorm": ("decorrelated_layer_norm", {}, True),
    "DecorrelatedLayerNorm, group": ("decorrelated_layer_norm", {"mode": "group"}, True),
    "DecorrelatedLayerNorm, eigh": ("decorrelated_layer_norm", {"method": "eigh"}, True),
    "LayerNorm (Flax)": ("layer_norm", {"reduction_axes": (1, 2, 3), "feature_axes": -1}, False),
    "GroupNorm (Flax)": ("group_norm", {"num_groups": 8}, False),
    "InstanceNorm (Flax)": ("instance_norm", {}, False),
}
# Dash and marker tell the lines apart, so that they also read in black and white.
_STYLES = {
    "BatchNorm": ("-", "o", "#222222"),
    "DecorrelatedBatchNorm": ("--", "s", "#1f5fa8"),
    "DecorrelatedLayerNorm": ("-.", "^", "#c2500a"),
    "DecorrelatedLayerNorm, eigh": (":", "D", "#7a7a7a"),
}


def points(whitens: bool) -> dict[str, list[tuple[int, int, int]]]:
    """(batch, channels, group size) along each axis of the figure."""
    return {
        "channels": [(_BATCH, channels, _GROUP) for channels in _CHANNELS_TRIED],
        "batch": [(batch, _CHANNELS, _GROUP) for batch in _BATCHES_TRIED],
        "group size": [(_BATCH, _CHANNELS, group) for group in _GROUPS_TRIED] if whitens else [],
    }


def contender(name: Annotated[str, tyro.conf.Positional]) -> None:
    """One layer at all points; prints one line of JSON.

    Args:
        name: which layer
    """
    from normjax import make_norm

    norm, options, whitens = LAYERS[name]
    tried = sorted({point for line in points(whitens).values() for point in line})
    times = {}
    for batch, channels, group in tried:
        module = make_norm(norm, **options, **({"group_size": group} if whitens else {}))(use_running_average=False)
        shape = (batch, _SIDE, _SIDE, channels)
        times[str((batch, channels, group))] = measure_module(module, shape, seconds=0.2)["ms"]
    print(json.dumps(times))


def main(figure: Path | None = None, layers: tuple[str, ...] = tuple(LAYERS), rounds: int = 3) -> None:
    """Prints the table and draws the figure.

    Args:
        figure: PNG to write, which needs all layers
        layers: which beside BatchNorm
        rounds: how often each layer runs
    """
    if unknown := set(layers) - set(LAYERS):
        raise SystemExit(f"layers {sorted(unknown)} are not known; use some of: {'; '.join(LAYERS)}.")
    names = [name for name in LAYERS if name == "BatchNorm" or name in layers]
    if figure is not None and (missing := set(_STYLES) - set(names)):
        raise SystemExit(f"--figure draws {sorted(missing)} as well; leave out --layers.")
    commands = {name: ["-m", "benchmarks.growth", "contender", name] for name in names}
    results = run_in_turn(commands, rounds=rounds, threads=1, keep_memory=True)

    def median(name: str, point: tuple[int, int, int]) -> float:
        return float(np.median([result[str(point)] for result in results[name]]))

    base = (_BATCH, _CHANNELS, _GROUP)
    table = Table("layer", "ms", "times BatchNorm", title=f"{_BATCH} x {_SIDE} x {_SIDE} x {_CHANNELS}, one thread")
    for name in names:
        table.add_row(name, f"{median(name, base):.2f}", f"{median(name, base) / median('BatchNorm', base):.1f}")
    Console(width=160).print(table)
    if figure is None:
        return
    lines = {
        axis: {name: [median(name, point) for point in points(LAYERS[name][2])[axis]] for name in _STYLES}
        for axis in points(True)
    }
    draw(lines, figure)


def draw(lines: dict[str, dict[str, list[float]]], file: Path) -> None:
    """Milliseconds along each axis, both scales logarithmic."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    tried = {"channels": _CHANNELS_TRIED, "batch": _BATCHES_TRIED, "group size": _GROUPS_TRIED}
    fixed = {
        "channels": f"batch {_BATCH}, groups of {_GROUP}",
        "batch": f"{_CHANNELS} channels, groups of {_GROUP}",
        "group size": f"batch {_BATCH}, {_CHANNELS} channels",
    }
    for axes, (axis, of_layers) in zip(figure.subplots(1, 3, sharey=True), lines.items(), strict=True):
        for name, times in of_layers.items():
            dash, marker, colour = _STYLES[name]
            if times:
                axes.plot(tried[axis], times, linestyle=dash, marker=marker, color=colour, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(tried[axis], [str(value) for value in tried[axis]])
        axes.set(xlabel=axis, title=fixed[axis])
        axes.grid(alpha=0.25)
        axes.label_outer()
    figure.axes[0].set_ylabel("forward + backward [ms]")
    figure.axes[0].legend(frameon=False, fontsize=9)
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=110, facecolor="white")


if __name__ == "__main__":
    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(main)
