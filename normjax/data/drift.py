"""Brightness and contrast that drift while training goes on."""

import math
from collections.abc import Callable

import numpy as np

from normjax.data.options import StreamConfig


def make_drift(options: StreamConfig) -> Callable[[np.ndarray, int], np.ndarray]:
    r"""What becomes of the pixels of a step.

    .. math:: x' = \tfrac12 + (1 + a \cos\phi) \big(x - \tfrac12\big) + \tfrac a2 \sin\phi, \qquad \phi = 2 \pi t / T,

    at step t, for pixels in [0, 1], cut to that range: the images of one step share brightness and contrast, and
    those of the next steps have others.

    Args:
      options: the ``stream`` section of a config; ``drift`` is a, ``drift_steps`` is T.

    Returns:
      A function of uint8 images and the step that gives uint8 images.

    Example:
      >>> drift = make_drift(StreamConfig(drift=0.5, drift_steps=4))
      >>> drift(np.array([[0, 128, 255]], np.uint8), 1)  # a quarter of the way: brightest
      array([[ 64, 192, 255]], dtype=uint8)
    """
    if not options.drift:
        return lambda images, _: images

    def apply(images: np.ndarray, step: int) -> np.ndarray:
        angle = 2 * math.pi * step / options.drift_steps
        contrast, brightness = 1 + options.drift * math.cos(angle), options.drift / 2 * math.sin(angle)
        # One table for all pixels of the step.
        pixels = 0.5 + contrast * (np.arange(256) / 255 - 0.5) + brightness
        return np.round(255 * pixels.clip(0, 1)).astype(np.uint8)[images]

    return apply
