"""Batches: which examples when, read and augmented ahead of the training step by Grain.

The order of the examples is a function of the seed alone: the permutations of all epochs, one after the other,
cut into batches. A batch may span two epochs, so every batch is full and every example comes exactly once an
epoch. The position in the data is the step, so a run resumes from its step, on any number of processes.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple, TypedDict

import grain
import numpy as np

from normjax.data.source import Source
from normjax.data.transforms import Transform

_ORDER, _AUGMENTATION = 1, 2  # what the seed is used for, so that no two uses share their numbers


class Batch(TypedDict, total=False):
    """The part of a global batch that this process holds."""

    image: np.ndarray  # uint8 (n, H, W, C)
    label: np.ndarray  # int32 (n,)
    mask: np.ndarray  # bool (n,), False for padding; evaluation only


class Shard(NamedTuple):
    """Which part of every global batch this process reads."""

    process: int
    processes: int

    def part(self, size: int) -> slice:
        """The rows of a global batch of ``size`` rows."""
        rows = size // self.processes
        return slice(self.process * rows, (self.process + 1) * rows)


ALL = Shard(process=0, processes=1)


def example_order(size: int, seed: int, start: int, stop: int) -> np.ndarray:
    """Indices of the examples at the global positions start to stop, in training.

    Args:
      size: examples in an epoch.
      seed: decides the permutation of each epoch.
      start: first position, counted from the beginning of training.
      stop: position after the last.

    Returns:
      Indices into the training set, (stop - start,).

    Example:
      >>> sorted(example_order(4, seed=0, start=4, stop=8).tolist())
      [0, 1, 2, 3]
    """
    epochs = range(start // size, math.ceil(stop / size))
    order = np.concatenate([_permutation(size, seed, epoch) for epoch in epochs])
    return order[start - epochs.start * size : stop - epochs.start * size]


def training_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    shard: Shard = ALL,
    threads: int = 2,
) -> Iterator[Batch]:
    """The batches of the steps start to stop.

    Args:
      source: the training set.
      transform: augmentation of a batch.
      batch_size: examples of a step over all processes, a multiple of ``shard.processes``.
      seed: decides order and augmentation.
      start: first step.
      stop: step after the last.
      shard: the part of each batch to read.
      threads: threads that read ahead.

    Returns:
      An iterator over this process's part of each batch.
    """
    part = shard.part(batch_size)

    def make(step: int) -> Batch:
        first = int(step) * batch_size
        indices = example_order(len(source), seed, first, first + batch_size)[part]
        images, labels = source.read(indices)
        uniform = np.random.default_rng([seed, _AUGMENTATION, int(step)]).random((batch_size, transform.draws))
        return Batch(image=transform.apply(images, uniform[part]), label=labels)

    return _ahead(grain.MapDataset.range(start, stop).map(make), threads)


def evaluation_batches(
    source: Source, transform: Transform, *, batch_size: int, shard: Shard = ALL, threads: int = 2
) -> Iterator[Batch]:
    """Every example exactly once, in order; the last batch is filled with zeros and masked.

    Args:
      source: the examples.
      transform: what is done to a batch; it draws nothing.
      batch_size: examples of a batch over all processes, a multiple of ``shard.processes``.
      shard: the part of each batch to read.
      threads: threads that read ahead.

    Returns:
      An iterator over this process's part of each batch, with ``mask``.
    """
    part = shard.part(batch_size)

    def make(number: int) -> Batch:
        rows = np.arange(int(number) * batch_size, (int(number) + 1) * batch_size)[part]
        valid = rows < len(source)
        # A process whose part is all padding still needs the shape of an image: it reads example 0.
        images, labels = source.read(rows[valid] if valid.any() else [0])
        images = transform.apply(images, np.empty((len(labels), 0)))
        if not valid.any():
            images, labels = images[:0], labels[:0]
        padding = len(rows) - len(labels)
        return Batch(
            image=np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0))),
            label=np.pad(labels, (0, padding)),
            mask=valid,
        )

    return _ahead(grain.MapDataset.range(math.ceil(len(source) / batch_size)).map(make), threads)


def _ahead(dataset: grain.MapDataset, threads: int) -> Iterator[Batch]:
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))


@functools.lru_cache(maxsize=4)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(size)
