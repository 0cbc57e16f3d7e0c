"""The two pictures of a run: its curves and its confusion matrix."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Told apart by dash and marker as well as by colour, so that they also read in black and white.
_TRAIN = {"color": "#1f5fa8", "linestyle": "-", "linewidth": 1.4}
_VALIDATION = {"color": "#c2500a", "linestyle": "--", "linewidth": 1.4, "marker": "o", "markersize": 3.5}
_TEST = {"color": "#222222", "linestyle": ":", "linewidth": 1.4}


def plot_curves(lines: Sequence[dict[str, Any]], file: Path, title: str) -> None:
    """Loss, accuracy and learning rate over the epochs.

    Args:
      lines: of ``metrics.jsonl``.
      file: PNG to write.
      title: above the picture.
    """
    figure, ((loss, accuracy, rate),) = new_figure(1, 3, (12, 3.6))

    def draw(axes: Any, split: str, name: str, factor: float, **style: Any) -> None:
        points = _points(lines, split, name)
        if len(points):
            axes.plot(points[:, 0], factor * points[:, 1], label=split, **style)

    for axes, name, factor in ((loss, "loss", 1.0), (accuracy, "accuracy", 100.0)):
        draw(axes, "train", name, factor, **_TRAIN)
        draw(axes, "validation", name, factor, **_VALIDATION)
        for line in lines:
            if line["split"] == "test" and line.get(name) is not None:
                value = line[name] * factor
                axes.axhline(value, label=f"test {value:.2f}{' %' if factor > 1 else ''}", **_TEST)
    draw(rate, "train", "learning_rate", 1.0, **_TRAIN)
    loss.set(title="Loss", xlabel="epoch", ylabel="cross entropy [nats]")
    accuracy.set(title="Accuracy", xlabel="epoch", ylabel="accuracy [%]")
    rate.set(title="Learning rate", xlabel="epoch", ylabel="learning rate")
    values = [line["loss"] for line in lines if line.get("loss")]
    if values and max(values) > 20 * min(values):
        loss.set_yscale("log")
    if top := [100 * line["accuracy"] for line in lines if line.get("accuracy") is not None]:
        # The last points matter most: start where the upper nine tenths of the curve begin.
        accuracy.set_ylim(max(0.0, float(np.quantile(top, 0.1)) - 5), 100.5)
    for axes in (loss, accuracy):
        axes.legend(frameon=False, fontsize=9)
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.25)
    save_figure(figure, file, title)


def plot_confusion(matrix: np.ndarray, classes: Sequence[str], file: Path, title: str) -> None:
    """Counts of predicted against true classes; shade is the share of the true class.

    Args:
      matrix: counts, rows true and columns predicted.
      classes: their names.
      file: PNG to write.
      title: above the picture.
    """
    count = len(classes)
    named = count <= 30
    side = float(np.clip(0.55 * count + 2.2, 4.5, 12)) if named else 9.0
    figure, ((axes,),) = new_figure(1, 1, (side + 0.8, side))
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true class [%]", fraction=0.046, pad=0.03)
    axes.set(xlabel="predicted class", ylabel="true class")
    if named:
        axes.set_xticks(
            range(count),
            classes,
            rotation=45 if max(map(len, classes)) > 3 else 0,
            ha="right" if max(map(len, classes)) > 3 else "center",
        )
        axes.set_yticks(range(count), classes)
        for row, column in np.argwhere(matrix > 0):
            dark = share[row, column] > 55
            axes.text(
                column,
                row,
                f"{matrix[row, column]}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "#222222",
            )
    save_figure(figure, file, title)


def _points(lines: Sequence[dict[str, Any]], split: str, name: str, most: int = 60) -> np.ndarray:
    """Epochs and values (n, 2); training lines, of a few steps each, are averaged over at most ``most`` stretches."""
    chosen = [line for line in lines if line["split"] == split and line.get(name) is not None]
    points = np.array([(line["epoch"], line[name], line.get("examples", 1)) for line in chosen]).reshape(-1, 3)
    if len(points) <= most or split != "train":
        return points[:, :2]
    stretch = np.ceil(points[:, 0] / points[-1, 0] * most)
    parts = [points[stretch == number] for number in np.unique(stretch)]
    return np.array([(part[-1, 0], np.average(part[:, 1], weights=part[:, 2])) for part in parts])


def new_figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """A figure on white and its panels, (rows, columns)."""
    # The object interface: no global state, no display, usable from threads.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def save_figure(figure: Any, file: Path, title: str) -> None:
    """Writes the figure as PNG, with its title."""
    figure.suptitle(title, fontsize=11)
    figure.savefig(file, dpi=130, bbox_inches="tight", pad_inches=0.12)
