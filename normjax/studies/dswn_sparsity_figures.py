"""The figures of the study of sparsity."""

from pathlib import Path

from normjax.studies.curves import STYLES
from normjax.training.plots import new_figure, save_figure


def draw_zeros(points: dict[str, list[tuple[float, float]]], labels: dict[str, str], file: Path, title: str) -> None:
    """Test accuracy against the share of zeros, a mark a run; the axis of the zeros widens towards 100 %.

    Args:
      points: by contender, zeros and accuracy of each run, in per cent.
      labels: of the contenders.
      file: PNG to write.
      title: above the picture.
    """
    figure, ((axes,),) = new_figure(1, 1, (7.5, 4.6))
    best = max(accuracy for runs in points.values() for _, accuracy in runs)
    # Those of a contender are the same in all pictures.
    styles = dict(zip(labels, STYLES, strict=False))
    for name, runs in points.items():
        zeros, accuracy = zip(*runs, strict=True)
        style = styles[name]
        if len(runs) < 2:
            style = {**style, "linestyle": "none"}
        # Where nothing is left, the mark stands at the edge.
        axes.plot([max(100 - zero, 0.5) for zero in zeros], accuracy, label=labels[name], lw=1, ms=5, **style)
    axes.set_xscale("log")
    axes.set_xlim(120, 0.5)
    ticks = [100, 50, 20, 10, 5, 2, 1]
    axes.set_xticks(ticks, [f"{100 - tick}" for tick in ticks])
    axes.minorticks_off()
    axes.axvline(20, color="#999999", lw=0.9, ls=":")
    axes.set(xlabel="weights that are exactly 0 [%]", ylabel="test accuracy [%]")
    axes.set_ylim(best - 12, best + 1)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, loc="lower left")
    save_figure(figure, file, f"Accuracy and zeros, {title}")
