"""The figures of the study of reference batches."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normjax.studies.curves import STYLES
from normjax.studies.network import BATCH
from normjax.training.plots import new_figure, save_figure

Curves = Mapping[str, Sequence[Any]]  # by the name of a contender, its curves: pairs of step and accuracy


def draw_accuracy(streams: Mapping[str, Curves], file: Path) -> None:
    """Validation accuracy against steps, a panel a stream; means over the seeds.

    Args:
      streams: by the name of a stream the curves of all contenders, in the same order each time.
      file: PNG to write.
    """
    figure, (panels,) = new_figure(1, len(streams), (14, 4.6))
    for axes, (stream, contenders) in zip(panels, streams.items(), strict=True):
        for (label, curves), style in zip(contenders.items(), STYLES, strict=True):
            if curves:
                mean = np.mean([np.array(curve) for curve in curves], 0)
                axes.plot(mean[:, 0], 100 * mean[:, 1], label=label, markersize=4, lw=1.3, **style)
        axes.axhline(10, color="#999999", lw=0.8, ls=":")
        axes.set(title=f"Batches: {stream}", xlabel=f"steps of {BATCH} images", ylabel="validation accuracy [%]")
        axes.set_ylim(0, 90)
        axes.grid(alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save_figure(figure, file, "Accuracy under shuffled and skewed batches (dotted: chance)")


def draw_drift(networks: Sequence[tuple[str, str, Any]], file: Path) -> None:
    """Distance of the statistics of batches, and of those that are kept, from the population's, layer by layer.

    Args:
      networks: for each its name, that of the statistics that it keeps, and what the probe measured; None: nothing yet.
      file: PNG to write.
    """
    figure, (panels,) = new_figure(1, len(networks), (12, 4.2))
    for axes, (label, kept, probe) in zip(panels, networks, strict=True):
        if probe is None:
            continue
        layers = list(probe)
        for name, said, style in (
            ("batch", "a training batch", {"color": "#c2500a", "hatch": "//"}),
            ("kept", kept, {"color": "#1f5fa8"}),
        ):
            offset = -0.2 if name == "batch" else 0.2
            # No bar where all channels of a layer are constant.
            heights = [probe[layer][name]["mean"] or 0.0 for layer in layers]
            axes.bar(np.arange(len(layers)) + offset, heights, 0.38, label=said, edgecolor="white", **style)
        axes.set_xticks(range(len(layers)), layers, rotation=30, ha="right")
        axes.set(title=label, ylabel="distance of the mean [standard deviations]")
        axes.grid(alpha=0.25, axis="y")
        axes.legend(frameon=False)
    top = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(0, top)
    save_figure(figure, file, "How far means lie from the population's, trained on batches of two classes")
