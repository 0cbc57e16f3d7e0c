"""Draws what was found in scenes: boxes, masks and classes over the picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normjax.data.scenes import Scenes
from normjax.detection.scores import Objects
from normjax.training.plots import new_figure, save_figure

SURE = 0.3  # fainter objects are not drawn


def draw_detections(
    scenes: Scenes, rows: Sequence[tuple[str, Sequence[Objects]]], classes: Sequence[str], file: Path, most: int = 6
) -> None:
    """A column a scene, a row a detector.

    Args:
      scenes: the pictures.
      rows: for each detector its name and what it found in each scene.
      classes: names of the classes.
      file: PNG to write.
      most: scenes drawn.
    """
    from matplotlib.patches import Rectangle

    columns = min(most, len(scenes.image))
    figure, panels = new_figure(len(rows), columns, (2.3 * columns, 2.5 * len(rows) + 0.3))
    for (name, found), line in zip(rows, panels, strict=True):
        for i, axes in enumerate(line):
            image = scenes.image[i]
            axes.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            for box, label, score, mask in zip(*found[i], strict=True):
                if score < SURE:
                    continue
                shade = np.zeros((*mask.shape, 4))
                shade[mask] = (1.0, 0.55, 0.1, 0.45)
                if mask.size:
                    axes.imshow(shade)
                left, top, right, bottom = box - 0.5
                axes.add_patch(
                    Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor="#ffb000", lw=1.2)
                )
                # Below the picture's top edge there is room inside the box only.
                axes.text(
                    left, max(top - 1, 5), f"{classes[label]} {100 * score:.0f}", color="black", fontsize=7,
                    bbox={"facecolor": "#ffb000", "edgecolor": "none", "pad": 0.6},
                )  # fmt: skip
        line[0].set_ylabel(name, fontsize=10)
    save_figure(figure, file, "Objects found, with class and score [%]")
