"""The order of the examples in training, decided by the seed alone."""

import functools
import math
from collections.abc import Callable

import numpy as np

_ORDER = 1  # what the seed is used for, so that no two uses share their numbers


def example_order(size: int, seed: int | tuple[int, ...], start: int, stop: int) -> np.ndarray:
    """Indices of the examples at the global positions start to stop, in training.

    The permutations of all epochs lie one behind the other, so every example comes exactly once an epoch.

    Args:
      size: examples in an epoch.
      seed: decides the permutation of each epoch; several numbers for orders beside each other.
      start: first position, counted from the beginning of training.
      stop: position after the last.

    Returns:
      Indices into the training set, (stop - start,).

    Example:
      >>> sorted(example_order(4, seed=0, start=4, stop=8).tolist())
      [0, 1, 2, 3]
    """
    seeds = seed if isinstance(seed, tuple) else (seed,)
    return between(lambda epoch: permutation(size, seeds, epoch), size, start, stop)


def between(order: Callable[[int], np.ndarray], size: int, start: int, stop: int) -> np.ndarray:
    """The part from ``start`` to ``stop`` of the orders of all epochs, one behind the other."""
    epochs = range(start // size, math.ceil(stop / size))
    return np.concatenate([order(epoch) for epoch in epochs])[start - epochs.start * size : stop - epochs.start * size]


@functools.lru_cache(maxsize=4)
def permutation(size: int, seeds: tuple[int, ...], epoch: int) -> np.ndarray:
    """The order of one epoch."""
    return np.random.default_rng([*seeds[:1], _ORDER, epoch, *seeds[1:]]).permutation(size)
