"""The figures of the study of reference batches."""

from pathlib import Path

import numpy as np

from normjax.studies.curves import STYLES
from normjax.studies.network import BATCH
from normjax.studies.reference_batch import CONTENDERS, LABELS, STREAMS, runs_of
from normjax.studies.trials import Results
from normjax.training.plots import new_figure, save_figure

_STYLES = dict(zip(CONTENDERS, STYLES, strict=True))


def draw_accuracy(results: Results, file: Path) -> None:
    """Validation accuracy against steps, a panel a stream; means over the seeds."""
    figure, (panels,) = new_figure(1, len(STREAMS), (14, 4.6))
    for axes, stream in zip(panels, STREAMS, strict=True):
        for contender in CONTENDERS:
            curves = [np.array(run["curve"]) for run in runs_of(results, stream, contender) if "curve" in run]
            if curves:
                mean = np.mean(curves, 0)
                axes.plot(
                    mean[:, 0], 100 * mean[:, 1], label=LABELS[contender], markersize=4, lw=1.3, **_STYLES[contender]
                )
        axes.axhline(10, color="#999999", lw=0.8, ls=":")
        axes.set(title=f"Batches: {stream}", xlabel=f"steps of {BATCH} images", ylabel="validation accuracy [%]")
        axes.set_ylim(0, 90)
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, file, "Accuracy under shuffled and skewed batches (dotted: chance)")


def draw_drift(results: Results, file: Path) -> None:
    """Distance of the statistics of batches, and of those that are kept, from the population's, layer by layer."""
    figure, (panels,) = new_figure(1, 2, (12, 4.2))
    for axes, contender in zip(panels, ("batch_norm", "virtual"), strict=True):
        run = next((run for run in runs_of(results, "two classes", contender) if "probe" in run), None)
        if run is None:
            continue
        layers = list(run["probe"])
        kept = "running averages" if contender == "batch_norm" else "reference"
        for name, label, style in (
            ("batch", "a training batch", {"color": "#c2500a", "hatch": "//"}),
            ("kept", kept, {"color": "#1f5fa8"}),
        ):
            offset = -0.2 if name == "batch" else 0.2
            # No bar where all channels of a layer are constant.
            heights = [run["probe"][layer][name]["mean"] or 0.0 for layer in layers]
            axes.bar(np.arange(len(layers)) + offset, heights, 0.38, label=label, edgecolor="white", **style)
        axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
        axes.set(title=LABELS[contender], ylabel="distance of the mean [standard deviations]")
        axes.grid(alpha=0.25, axis="y")
        axes.legend(frameon=False)
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)
    save_figure(figure, file, "How far means lie from the population's, trained on batches of two classes")
