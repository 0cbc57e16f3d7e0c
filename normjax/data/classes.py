"""The examples of some classes of a data set."""

from collections.abc import Sequence

import numpy as np

from normjax.data.source import UNREADABLE, Images, Source, Subset
from normjax.errors import UserError

_AT_ONCE = 512  # records that are read for their labels


class OfClasses(Source):
    """A source whose labels count the chosen classes, from 0."""

    def __init__(self, source: Subset, classes: Sequence[str], number: np.ndarray):
        self.source, self.classes, self._number = source, tuple(classes), number
        self.name, self.image_shape = source.name, source.image_shape
        self.in_memory, self.unreadable = source.in_memory, source.unreadable
        self.labels = None if source.labels is None else number[source.labels]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        images, labels = self.source.read(indices)
        return images, self._number[labels]


def of_classes(source: Source, classes: Sequence[str]) -> Source:
    """The examples of some classes, which are numbered in the order given.

    Args:
      source: all of them; where it does not know its labels all its records are read once.
      classes: their names.

    Raises:
      UserError: there is no such class, one is named twice, there are fewer than two, or no example is of these.
    """
    if unknown := [name for name in classes if name not in source.classes]:
        raise UserError(f"data.classes={unknown[0]}: no class of {source.name}; use {', '.join(source.classes)}.")
    if len(set(classes)) != len(classes) or len(classes) < 2:
        raise UserError(f"data.classes={' '.join(classes)}: name two classes or more, each once.")
    # One more entry, so that the label of an unreadable record, -1, stays what it is.
    number = np.full(len(source.classes) + 1, UNREADABLE, np.int32)
    number[[source.classes.index(name) for name in classes]] = np.arange(len(classes))
    chosen = np.flatnonzero(number[_labels(source)] >= 0)
    if not len(chosen):
        raise UserError(f"data.classes={' '.join(classes)}: {source.name} has no example of these.")
    return OfClasses(Subset(source, chosen), classes, number)


def _labels(source: Source) -> np.ndarray:
    if source.labels is not None:
        return source.labels
    parts = np.array_split(np.arange(len(source)), max(1, len(source) // _AT_ONCE))
    return np.concatenate([source.read(part)[1] for part in parts])
