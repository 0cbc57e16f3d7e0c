"""A source that goes on where records cannot be read, and tells which they were."""

import logging
from collections.abc import Sequence

import numpy as np

from normjax.data.source import UNREADABLE, Images, Source
from normjax.errors import UserError

_log = logging.getLogger(__name__)


class Tolerant(Source):
    """Reads blanks with the label ``UNREADABLE`` where the source raises, so that they can be masked out.

    Attributes:
      unreadable: what is wrong with each of them, by index.
    """

    def __init__(self, source: Source):
        self.source = source
        self._found: dict[int, str] = {}
        self.unreadable = self._found
        self.name, self.classes, self.image_shape = source.name, source.classes, source.image_shape
        self.labels, self.in_memory = source.labels, source.in_memory

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        wanted = [int(index) for index in indices]
        if self._found.keys().isdisjoint(wanted):
            try:
                return self.source.read(wanted)
            except UserError:
                pass  # found below, one by one
        # Where sizes differ a blank may have any; it is resized with the others.
        blank = np.zeros(self.image_shape or (2, 2, 3), np.uint8)
        read = [self._read_one(index, blank) for index in wanted]
        images = [image for image, _ in read]
        return np.stack(images) if self.image_shape else images, np.array([label for _, label in read], np.int32)

    def _read_one(self, index: int, blank: np.ndarray) -> tuple[np.ndarray, int]:
        if index not in self._found:
            try:
                images, labels = self.source.read([index])
                return images[0], int(labels[0])
            except UserError as error:
                self._found[index] = str(error)
                _log.warning("left out: %s", error)
        return blank, UNREADABLE
