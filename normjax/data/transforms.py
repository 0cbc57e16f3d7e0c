"""What is done to whole batches of images: cropping, flipping, resizing, as functions of uniform numbers.

A transform takes the images of a batch and ``draws`` uniform numbers in [0, 1) an image. As the numbers are
drawn for a global batch from (seed, step), an image is treated alike on any number of processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from normjax.data.source import Images


class Transform(NamedTuple):
    """A function of images and uniform numbers (n, draws)."""

    draws: int
    apply: Callable[[Images, np.ndarray], np.ndarray]


def identity() -> Transform:
    """The images as they are; all must have one size."""
    return Transform(0, lambda images, _: np.asarray(images))


def shift_and_flip(padding: int, *, flip: bool) -> Transform:
    """Pads with zeros, crops at random to the old size, and mirrors half of the images.

    Args:
      padding: pixels added on each side.
      flip: whether to mirror.

    References:
      He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, 2016, section 4.2.
    """

    def apply(images: Images, u: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        out = np.empty_like(images)
        tops, lefts = (u[:, :2] * (2 * padding + 1)).astype(int).T
        for i, (top, left) in enumerate(zip(tops.tolist(), lefts.tolist(), strict=True)):
            out[i] = padded[i, top : top + height, left : left + width]
        if flip:
            mirrored = u[:, 2] < 0.5
            out[mirrored] = out[mirrored, :, ::-1]
        return out

    return Transform(3 if flip else 2, apply)


def random_resized_crop(height: int, width: int) -> Transform:
    """Crops 8 to 100 % of the area at an aspect ratio of 3/4 to 4/3, resizes, and mirrors half of the images.

    A crop that would leave the image is cut to it.

    Args:
      height: of the result.
      width: of the result.

    References:
      Szegedy et al., `Going Deeper with Convolutions <https://arxiv.org/abs/1409.4842>`_, 2015, section 6.
    """

    def crop(image: np.ndarray, u: np.ndarray) -> np.ndarray:
        rows, columns = image.shape[:2]
        area = (0.08 + 0.92 * u[0]) * rows * columns
        ratio = np.exp(np.log(4 / 3) * (2 * u[1] - 1))
        h = int(np.clip(np.sqrt(area / ratio), 1, rows))
        w = int(np.clip(np.sqrt(area * ratio), 1, columns))
        top, left = int(u[2] * (rows - h + 1)), int(u[3] * (columns - w + 1))
        out = _resize(image[top : top + h, left : left + w], height, width)
        return out[:, ::-1] if u[4] < 0.5 else out

    return Transform(5, lambda images, u: np.stack([crop(image, row) for image, row in zip(images, u, strict=True)]))


def resize_and_centre_crop(size: int) -> Transform:
    """Resizes the shorter side to 256/224 of ``size`` (to ``size`` below 64 pixels) and crops the centre.

    Args:
      size: side of the result.
    """
    shorter = round(size * 256 / 224) if size >= 64 else size

    def crop(image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (size, size):
            return image
        height, width = image.shape[:2]
        factor = shorter / min(height, width)
        image = _resize(image, max(size, round(height * factor)), max(size, round(width * factor)))
        top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
        return image[top : top + size, left : left + size]

    return Transform(0, lambda images, _: np.stack([crop(image) for image in images]))


def then(first: Transform, second: Transform) -> Transform:
    """One transform after another; each has its own uniform numbers."""

    def apply(images: Images, u: np.ndarray) -> np.ndarray:
        return second.apply(first.apply(images, u[:, : first.draws]), u[:, first.draws :])

    return Transform(first.draws + second.draws, apply)


def _resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    grey = image.shape[-1] == 1
    resized = Image.fromarray(image[..., 0] if grey else image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)
    return pixels[..., None] if grey else pixels
