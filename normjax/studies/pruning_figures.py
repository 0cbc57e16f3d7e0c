"""The figures of the studies of pruning."""

from pathlib import Path
from typing import Any

import numpy as np

from normjax.studies.curves import STYLES
from normjax.training.plots import new_figure, save_figure


def draw_accuracy(
    curves: dict[str, list[np.ndarray]], whole: float, file: Path, title: str = "Rounds of pruning"
) -> None:
    """Validation accuracy against the multiplications left, a line for each search.

    Args:
      curves: by label, (rounds, 2) of each search, in per cent.
      whole: accuracy before, in per cent.
      file: PNG to write.
      title: above the picture.
    """
    figure, ((axes,),) = new_figure(1, 1, (7.5, 4.6))
    for (label, runs), style in zip(curves.items(), STYLES, strict=False):
        for number, points in enumerate(runs):
            # The first point is the network as it was, the same for all.
            said = label if number == 0 else None
            axes.plot(points[1:, 0], points[1:, 1], label=said, lw=1.1, markersize=4, **style)
    axes.axhline(whole, color="#999999", lw=0.9, ls=":", label="before pruning")
    axes.invert_xaxis()
    axes.set(xlabel="multiplications left [%]", ylabel="accuracy on the validation split [%]")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    save_figure(figure, file, title)


def draw_widths(results: dict[str, dict[str, Any]], file: Path) -> None:
    """What is left of each layer, a bar for each search.

    Args:
      results: by label, ``neurons`` and ``kept`` of a search.
      file: PNG to write.
    """
    if not results:
        return
    sizes = next(iter(results.values()))["neurons"]
    figure, ((axes,),) = new_figure(1, 1, (7.5, max(3.5, 0.5 * len(sizes) + 1.2)))
    high = 0.8 / len(results)
    shades = ("#1f5fa8", "#c2500a", "#bbbbbb", "#2e8b57")
    for number, ((label, told), color) in enumerate(zip(results.items(), shades, strict=False)):
        left = [100 * len(told["kept"][name]) / size for name, size in sizes.items()]
        places = np.arange(len(sizes)) + (number - (len(results) - 1) / 2) * high
        hatch = (None, "//", "..", "xx")[number]
        axes.barh(places, left, high, label=label, color=color, edgecolor="#333333", linewidth=0.4, hatch=hatch)
    axes.set_yticks(np.arange(len(sizes)), [f"{name} ({size})" for name, size in sizes.items()])
    axes.invert_yaxis()
    axes.set(xlabel="neurons left [%]", xlim=(0, 100))
    axes.grid(alpha=0.25, axis="x")
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    save_figure(figure, file, "Neurons left of each layer")
