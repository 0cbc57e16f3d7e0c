"""A few examples of the training split, drawn once: the reference batch, or what layers are initialised by."""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np

from normjax.data.source import UNREADABLE, Source
from normjax.data.transforms import Transform
from normjax.errors import UserError

_REFERENCE = 21  # what the seed is used for
_CHUNK = 256  # examples read at a time


def draw_reference(
    source: Source,
    prepare: Transform,
    *,
    size: int,
    draw: Literal["balanced", "random"],
    seed: int,
    name: str = "reference.size",
) -> np.ndarray:
    """Images of a few examples, which stay in the training set, too.

    Args:
      source: the training set.
      prepare: what is done to images that are evaluated; these are not augmented.
      size: how many.
      draw: ``balanced`` takes as many of each class as of any other (one more of some, where ``size`` is no
        multiple), as far as a class has them; ``random`` takes any.
      seed: decides which.
      name: of the size, for the error.

    Returns:
      uint8 images, (size, height, width, channels).

    Raises:
      UserError: there are fewer examples.
    """
    order = np.random.default_rng([seed, _REFERENCE]).permutation(len(source))
    if draw == "balanced":
        chosen = _balanced(source, order, size)
    elif source.unreadable is None:
        chosen = order[:size].tolist()
    else:
        chosen = [index for index, _ in itertools.islice(_examples(source, order), size)]
    if len(chosen) < size:
        raise UserError(f"{name}={size} is more than the {len(chosen)} training examples.")
    images, labels = source.read(chosen)
    return prepare.apply(images, np.empty((len(labels), 0)))


def _balanced(source: Source, order: np.ndarray, size: int) -> list[int]:
    share, extra = divmod(size, len(source.classes))
    taken = np.zeros(len(source.classes), int)
    chosen: list[int] = []
    passed: list[int] = []
    for index, label in _examples(source, order):
        wanted = taken[label] < share or (taken[label] == share and extra > 0)
        if not wanted:
            passed.append(index)
            continue
        extra -= taken[label] == share
        taken[label] += 1
        chosen.append(index)
        if len(chosen) == size:
            break
    # Classes that have fewer than their share leave places to the others.
    return chosen + passed[: size - len(chosen)]


def _examples(source: Source, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Indices and classes in this order, without records that cannot be read."""
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        # Labels that are known do not tell whether the image can be read.
        known = None if source.unreadable is not None else source.labels
        labels = source.read(chunk)[1] if known is None else known[chunk]
        for index, label in zip(chunk.tolist(), labels.tolist(), strict=True):
            if label != UNREADABLE:
                yield index, label
