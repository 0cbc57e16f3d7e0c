"""Examples the data tests share: each image is told from every other by its pixels."""

import numpy as np
from tfds_standin import encoded

from normjax.data import MemorySource
from normjax.data.source import Images, Source

TINY_CLASSES = ["ant", "bee", "cat"]


def distinct_pixels(n: int, height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """Noise without a zero, so that padding shows."""
    return np.random.default_rng(seed).integers(1, 256, (n, height, width, channels), dtype=np.uint8)


def numbered_source(n: int, height: int = 4, width: int = 5, channels: int = 3) -> MemorySource:
    """The label of each example is its index."""
    names = [str(i) for i in range(n)]
    return MemorySource("numbered", names, distinct_pixels(n, height, width, channels), np.arange(n))


class UnevenSource(Source):
    """Images of different sizes, labelled by their index."""

    image_shape = None

    def __init__(self, n: int):
        self.name, self.classes = "uneven", tuple(str(i) for i in range(n))
        self.images = [distinct_pixels(1, 6 + i % 4, 5 + i % 3, 3, seed=i)[0] for i in range(n)]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices) -> tuple[Images, np.ndarray]:
        return [self.images[i] for i in indices], np.asarray(indices, np.int32)


def records(pixels: np.ndarray, labels=None) -> list[dict]:
    """Examples of a TFDS data set with PNG images; classes 0, 1, 2 in turn unless given."""
    labels = np.arange(len(pixels)) % len(TINY_CLASSES) if labels is None else labels
    return [{"image": encoded(image), "label": int(label)} for image, label in zip(pixels, labels, strict=True)]


def identities(images: Images) -> list[bytes]:
    """What tells images from one another, sorted: equal lists are equal collections."""
    return sorted(np.ascontiguousarray(image).tobytes() for image in images)
