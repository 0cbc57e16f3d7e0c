"""The pictures of pruning: a search, the ranks of neurons by layer, and what neurons see."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from normjax.training.plots import new_figure, save_figure


def draw_pruning(result: dict[str, Any], file: Path) -> None:
    """Draws what ``prune_run`` tells.

    Args:
      result: as in ``pruning.json``.
      file: PNG to write.
    """
    rounds, neurons = result["rounds"], result["neurons"]
    layers = list(neurons)
    figure, ((course, widths),) = new_figure(1, 2, (12, max(3.8, 0.24 * len(layers) + 1.6)))
    accepted = [r for r in rounds if r["accepted"]]
    refused = [r for r in rounds if not r["accepted"]]
    whole = rounds[0]["multiply_adds"]

    def points(chosen: Any) -> tuple[list[float], list[float]]:
        return [100 * r["multiply_adds"] / whole for r in chosen], [100 * r["accuracy"] for r in chosen]

    course.plot(*points(accepted), color="#1f5fa8", marker="o", markersize=4, linewidth=1.4, label="accepted")
    if refused:
        course.plot(*points(refused), color="#c2500a", marker="x", linestyle="none", label="too much")
    course.invert_xaxis()
    course.set(title="Rounds", xlabel="multiplications left [%]", ylabel="accuracy on the validation split [%]")
    course.legend(frameon=False, fontsize=9)
    left = [100 * len(result["kept"].get(name, range(neurons[name]))) / neurons[name] for name in layers]
    widths.barh(layers, [100] * len(layers), color="#e6e6e6", edgecolor="#999999", linewidth=0.5)
    widths.barh(layers, left, color="#1f5fa8")
    for row, (name, share) in enumerate(zip(layers, left, strict=True)):
        count = len(result["kept"].get(name, range(neurons[name])))
        inside = share > 30
        widths.text(
            share - 1 if inside else share + 1,
            row,
            f"{count} of {neurons[name]}",
            va="center",
            ha="right" if inside else "left",
            fontsize=7,
            color="white" if inside else "#222222",
        )
    widths.invert_yaxis()
    widths.tick_params(axis="y", labelsize=7 if len(layers) > 15 else 9)
    widths.set(title="Neurons left", xlabel="share of the layer [%]", xlim=(0, 100))
    course.grid(alpha=0.25)
    save_figure(
        figure, file, f"{Path(result['run']).name}, {result['options']['score']}, {result['options']['debias']}"
    )


def draw_ranks(scores: dict[str, dict[str, np.ndarray]], bias: dict[str, float], file: Path, title: str) -> None:
    """The ranks of all neurons together, a row a layer, for each way of making layers comparable.

    Args:
      scores: by debiasing, the scores of the neurons of each layer.
      bias: by debiasing, how much of the ranking the layer explains.
      file: PNG to write.
      title: above the picture.
    """
    layers = list(next(iter(scores.values())))
    figure, (panels,) = new_figure(1, len(scores), (6 * len(scores), max(3.0, 0.3 * len(layers) + 1.4)))
    for axes, (name, by_layer) in zip(panels, scores.items(), strict=True):
        sizes = [len(by_layer[layer]) for layer in layers]
        ranks = 100 * rankdata(np.concatenate([by_layer[layer] for layer in layers])) / sum(sizes)
        for row, own in enumerate(np.split(ranks, np.cumsum(sizes)[:-1])):
            axes.plot(own, np.full(len(own), row), "|", color="#1f5fa8", markersize=9, alpha=0.5)
            axes.plot([np.median(own)] * 2, [row - 0.4, row + 0.4], color="#c2500a", linewidth=2.4)
        axes.set_yticks(range(len(layers)), layers, fontsize=7 if len(layers) > 15 else 9)
        axes.invert_yaxis()
        how = "scores as they are" if name == "none" else f"after {name}"
        axes.set(
            title=f"{how}: the layer explains {bias[name]:.0%}", xlabel="rank among all neurons [%]", xlim=(0, 101)
        )
        axes.grid(alpha=0.25, axis="x")
    save_figure(figure, file, f"{title}; a mark a neuron, the median of each layer in bold")


def draw_seen(image: np.ndarray, pictures: np.ndarray, alike: np.ndarray, file: Path, title: str) -> None:
    """An image, the pictures on which neurons do what they do on it, and how alike these are.

    Args:
      image: (height, width, channels), 0 to 1.
      pictures: (neurons, height, width, channels), 0 to 1.
      alike: (neurons, neurons), correlations.
      file: PNG to write.
      title: above the picture.
    """
    figure, ((shown, seen, matrix),) = new_figure(1, 3, (13, 4.8))
    shown.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1)
    shown.set(title="image")
    count, (height, width, channels) = len(pictures), image.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    sheet = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, channels))
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        sheet[top : top + height, left : left + width] = picture
    seen.imshow(sheet.squeeze(), cmap="gray", vmin=0, vmax=1)
    seen.set(title=f"what its {count} neurons see, row by row")
    for axes in (shown, seen):
        axes.set(xticks=[], yticks=[])
    drawn = matrix.imshow(alike, cmap="RdBu_r", vmin=-1, vmax=1)
    matrix.set(title="how alike they are", xlabel="neuron", ylabel="neuron")
    figure.colorbar(drawn, ax=matrix, label="correlation of the pictures", shrink=0.8)
    save_figure(figure, file, title)
