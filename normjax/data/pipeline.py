"""Batches: which examples when, read and augmented ahead of the training step by Grain.

The examples of a batch are a function of the step (``streams.py``), so a run resumes from its step, on any number of
processes. A batch may span two epochs, so every batch is full.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypedDict

import grain
import numpy as np

from normjax.data.options import StreamConfig
from normjax.data.source import UNREADABLE, Source
from normjax.data.streams import Stream, make_stream
from normjax.data.transforms import Transform

_AUGMENTATION = 2  # what the seed is used for, so that no two uses share their numbers


class Batch(TypedDict, total=False):
    """The part of a global batch that this process holds."""

    image: np.ndarray  # uint8 (n, H, W, C)
    label: np.ndarray  # int32 (n,)
    mask: np.ndarray  # bool (n,), False for padding and for records that cannot be read; not where all are valid


class Shard(NamedTuple):
    """Which part of every global batch this process reads."""

    process: int
    processes: int

    def part(self, size: int) -> slice:
        """The rows of a global batch of ``size`` rows."""
        rows = size // self.processes
        return slice(self.process * rows, (self.process + 1) * rows)


ALL = Shard(process=0, processes=1)


def training_batches(
    source: Source,
    transform: Transform,
    *,
    batch_size: int,
    seed: int,
    start: int,
    stop: int,
    stream: Stream | None = None,
    drift: Callable[[np.ndarray, int], np.ndarray] | None = None,
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
      stream: which examples when; None shuffles each epoch.
      drift: what becomes of the pixels of a step after the augmentation; None is nothing.
      shard: the part of each batch to read.
      threads: threads that read ahead.

    Returns:
      An iterator over this process's part of each batch.
    """
    part = shard.part(batch_size)
    stream = stream or make_stream(StreamConfig(), source, batch_size=batch_size, seed=seed)

    def make(step: int) -> Batch:
        images, labels = source.read(stream(int(step))[part])
        uniform = np.random.default_rng([seed, _AUGMENTATION, int(step)]).random((batch_size, transform.draws))
        images = transform.apply(images, uniform[part])
        images = images if drift is None else drift(images, int(step))
        if source.unreadable is None:
            return Batch(image=images, label=labels)
        # With a mask in each batch there is one program for all of them.
        valid = labels != UNREADABLE
        return Batch(image=images, label=np.where(valid, labels, 0), mask=valid)

    return _ahead(grain.MapDataset.range(start, stop).map(make), threads)


def evaluation_batches(
    source: Source, transform: Transform, *, batch_size: int, shard: Shard = ALL, threads: int = 2
) -> Iterator[Batch]:
    """Every example exactly once, in order; the last batch is filled with zeros, and these are masked.

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
        readable = labels != UNREADABLE
        return Batch(
            image=np.pad(images, ((0, padding), (0, 0), (0, 0), (0, 0))),
            label=np.pad(np.where(readable, labels, 0), (0, padding)),
            mask=np.pad(readable, (0, padding)),
        )

    return _ahead(grain.MapDataset.range(math.ceil(len(source) / batch_size)).map(make), threads)


def _ahead(dataset: grain.MapDataset, threads: int) -> Iterator[Batch]:
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
