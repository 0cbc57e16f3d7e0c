"""Scenes made of real digits, with the box and the mask of each: a data set for detection that needs no download."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from normjax.data.source import Source

_SCENES = 31  # what the seed is used for
_INK = 64  # pixels above this belong to the digit
_FEWEST_PIXELS = 12  # of a digit that others cover in part


class Scenes(NamedTuple):
    """Pictures with the objects in them, padded to the same number of objects."""

    image: np.ndarray  # uint8 (n, size, size, channels)
    boxes: np.ndarray  # float32 (n, objects, 4): left, top, right, bottom in pixels; 0 where there is none
    labels: np.ndarray  # int32 (n, objects); -1 where there is none
    instances: np.ndarray  # uint8 (n, size, size): number of the object that a pixel belongs to from 1, 0 for none


class SceneSource:
    """Random access to scenes of one to six digits at several scales; the seed and the index make a scene.

    Args:
      digits: single digits, grey, one a picture, light on dark.
      count: number of scenes.
      size: side of a scene, in pixels.
      seed: decides all scenes.
      objects: most digits in a scene.
      heights: smallest and largest height of a digit, in pixels; None is 3/16 and 17/32 of ``size``.

    Example:
      >>> from normjax.data import load_source
      >>> scenes = SceneSource(load_source("digits", "train", seed=0, data_dir=None), 10, size=64, seed=0).read([3])
      >>> scenes.image.shape, scenes.boxes.shape
      ((1, 64, 64, 1), (1, 6, 4))
    """

    def __init__(
        self,
        digits: Source,
        count: int,
        *,
        size: int = 64,
        seed: int = 0,
        objects: int = 6,
        heights: tuple[float, float] | None = None,
    ):
        self.digits, self.count, self.size, self.seed = digits, count, size, seed
        self.objects, self.heights = objects, heights or (3 / 16 * size, 17 / 32 * size)
        self.classes = digits.classes
        self.channels, self.has_masks = 1, True
        self.name = f"scenes of {digits.name}"

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The scenes of these numbers."""
        return Scenes(*(np.stack(parts) for parts in zip(*(self._make(int(i)) for i in indices), strict=True)))

    def _make(self, index: int) -> Scenes:
        rng = np.random.default_rng([self.seed, _SCENES, index])
        # Grey ground of its own brightness, with noise.
        canvas = np.full((self.size, self.size), rng.uniform(0, 70)) + rng.normal(0, 8, (self.size, self.size))
        instances = np.zeros((self.size, self.size), np.uint8)
        labels: list[int] = []
        taken: list[tuple[int, int, int, int]] = []
        for _ in range(rng.integers(1, self.objects + 1)):
            pixels, label = self._digit(rng)
            place = self._place(pixels.shape, taken, rng)
            if place is None:
                continue
            top, left = place
            height, width = pixels.shape
            taken.append((left, top, left + width, top + height))
            labels.append(label)
            window = np.s_[top : top + height, left : left + width]
            light, ink = rng.uniform(150, 255), pixels / 255
            canvas[window] = canvas[window] * (1 - ink) + light * ink
            instances[window][pixels > _INK] = len(labels)
        return self._describe(canvas, instances, labels)

    def _digit(self, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """A digit cut out and brought to a height of its own."""
        images, labels = self.digits.read([int(rng.integers(len(self.digits)))])
        pixels = np.asarray(images[0])[..., 0]
        rows, columns = np.flatnonzero((pixels > _INK).any(1)), np.flatnonzero((pixels > _INK).any(0))
        pixels = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        height = np.exp(rng.uniform(*np.log(self.heights)))
        factor = height / pixels.shape[0]
        shape = max(3, round(pixels.shape[1] * factor)), round(height)
        return np.asarray(Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR)), int(labels[0])

    def _place(
        self, shape: tuple[int, int], taken: list[tuple[int, int, int, int]], rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Top and left of a place where no other digit is covered by more than a fifth; None where none was found."""
        height, width = shape
        if height > self.size or width > self.size:
            return None
        for _ in range(20):
            top, left = int(rng.integers(self.size - height + 1)), int(rng.integers(self.size - width + 1))
            if all(_overlap((left, top, left + width, top + height), other) <= 0.2 for other in taken):
                return top, left
        return None

    def _describe(self, canvas: np.ndarray, instances: np.ndarray, labels: list[int]) -> Scenes:
        boxes = np.zeros((self.objects, 4), np.float32)
        kept = np.full(self.objects, -1, np.int32)
        numbered = np.zeros_like(instances)
        seen = 0
        for number, label in enumerate(labels, 1):
            rows, columns = np.nonzero(instances == number)
            if len(rows) < _FEWEST_PIXELS:
                continue
            boxes[seen] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            kept[seen] = label
            seen += 1
            numbered[rows, columns] = seen
        return Scenes(canvas.clip(0, 255).astype(np.uint8)[..., None], boxes, kept, numbered)


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Area of the intersection as a share of the smaller box."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))
