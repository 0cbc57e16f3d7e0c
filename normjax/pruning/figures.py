"""The picture of a search: accuracy against size, and what is left of each layer."""

from pathlib import Path
from typing import Any

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
