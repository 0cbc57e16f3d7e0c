"""Curves of accuracy over the steps, as the studies draw them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normjax.training.plots import new_figure, save_figure

# Told apart by dash and marker as well as by colour, so that they also read in black and white.
STYLES = (
    {"color": "#222222", "linestyle": "-", "marker": "o"},
    {"color": "#7a7a7a", "linestyle": "--", "marker": "s"},
    {"color": "#c2500a", "linestyle": "-", "marker": "^"},
    {"color": "#1f5fa8", "linestyle": "-", "marker": "D"},
    {"color": "#1f5fa8", "linestyle": "--", "marker": "v"},
    {"color": "#2e8b57", "linestyle": "-", "marker": "x"},
    {"color": "#2e8b57", "linestyle": "--", "marker": "+"},
    {"color": "#8a4fbf", "linestyle": ":", "marker": "*"},
)


def draw_curves(
    curves: dict[str, list[Sequence[Sequence[float]]]], file: Path, title: str, *, xlabel: str, mark: float
) -> None:
    """Accuracy against steps, the mean over the seeds as a line and their range as a band.

    Args:
      curves: by label, the steps and accuracies of each seed.
      file: PNG to write.
      title: above the picture.
      xlabel: with the unit of a step.
      mark: an accuracy that is marked by a line.
    """
    figure, ((axes,),) = new_figure(1, 1, (7.5, 4.6))
    lowest = mark
    for (label, runs), style in zip(curves.items(), STYLES, strict=False):
        if not runs:
            continue
        values = 100 * np.array(runs)[..., 1]
        steps = np.array(runs)[0, :, 0]
        axes.plot(steps, values.mean(0), label=label, lw=1.3, markersize=4, markevery=max(1, len(steps) // 12), **style)
        axes.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.12, lw=0)
        lowest = min(lowest, float(np.quantile(values, 0.1)) / 100)
    axes.axhline(100 * mark, color="#999999", lw=0.9, ls=":", label=f"{mark:.0%}")
    axes.set(xlabel=xlabel, ylabel="validation accuracy [%]", ylim=(100 * lowest - 1, 100))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    save_figure(figure, file, title)
