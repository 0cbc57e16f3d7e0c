"""Which examples make up the batch of a step: shuffled, or in one of the ways in which real data are not drawn alike.

A stream is a function of the step alone, so a run resumes anywhere in it.
"""

import functools
from collections.abc import Callable

import numpy as np

from normjax.data.options import StreamConfig
from normjax.data.order import between, example_order, permutation
from normjax.data.source import UNREADABLE, Source
from normjax.errors import UserError

Stream = Callable[[int], np.ndarray]  # step -> indices of the global batch, (batch_size,)

_CLASSES, _ROWS, _SHARDS = 11, 12, 13  # what the seed is used for


def make_stream(options: StreamConfig, source: Source, *, batch_size: int, seed: int) -> Stream:
    """The stream that a config describes.

    Args:
      options: the ``stream`` section of a config.
      source: the training set.
      batch_size: examples of a step, all devices together.
      seed: decides the order.

    Raises:
      UserError: the options do not fit the data or the batch, or labels are needed and not known.
    """
    if options.name == "shuffled":
        return lambda step: example_order(len(source), seed, step * batch_size, (step + 1) * batch_size)
    if source.labels is None:
        raise UserError(
            f"stream.name={options.name} needs the labels of all examples, and {source.name} tells them only with its "
            "images; let it be decoded into memory (a larger run.cache_mib), or use stream.name=shuffled."
        )
    if options.name == "few_classes":
        return few_classes(source.labels, options.classes, batch_size=batch_size, seed=seed)
    if options.name == "sorted":
        return sorted_by_class(source.labels, batch_size=batch_size, seed=seed)
    return skewed_shards(source.labels, options.shards, options.concentration, batch_size=batch_size, seed=seed)


def few_classes(labels: np.ndarray, classes: int, *, batch_size: int, seed: int) -> Stream:
    """Batches of ``classes`` classes, as many examples of each.

    Every class comes once in each round of batches, in an order of the round's own, and goes through all its
    examples before one comes again.

    Args:
      labels: class of each example.
      classes: how many a batch holds; a divisor of the number of classes and of ``batch_size``.
      batch_size: examples of a step.
      seed: decides the order.

    Raises:
      UserError: ``classes`` divides one of the two not.

    Example:
      >>> stream = few_classes(np.arange(100) % 10, 2, batch_size=8, seed=0)
      >>> len(set(stream(3) % 10))
      2
    """
    members = [np.flatnonzero(labels == label) for label in _classes(labels)]
    for name, number in (("the classes", len(members)), ("batch_size", batch_size)):
        if number % classes:
            divisors = [k for k in range(1, number + 1) if number % k == 0]
            raise UserError(f"stream.classes={classes} does not divide {name} ({number}); use one of {divisors}.")
    each, batches = batch_size // classes, len(members) // classes

    def indices(step: int) -> np.ndarray:
        round_, place = divmod(step, batches)
        order = np.random.default_rng([seed, _CLASSES, round_]).permutation(len(members))
        chosen = order[place * classes : (place + 1) * classes]
        start, stop = round_ * each, (round_ + 1) * each
        parts = [members[c][example_order(len(members[c]), (seed, _CLASSES, int(c)), start, stop)] for c in chosen]
        # Rows are mixed, so that devices which share a batch see the same classes.
        return np.random.default_rng([seed, _ROWS, step]).permutation(np.concatenate(parts))

    return indices


def sorted_by_class(labels: np.ndarray, *, batch_size: int, seed: int) -> Stream:
    """Each epoch in the order of the classes, shuffled within a class.

    Args:
      labels: class of each example.
      batch_size: examples of a step.
      seed: decides the order within a class.
    """

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        shuffled = permutation(len(labels), (seed,), epoch)
        return shuffled[np.argsort(labels[shuffled], kind="stable")]

    return lambda step: between(order, len(labels), step * batch_size, (step + 1) * batch_size)


def skewed_shards(labels: np.ndarray, shards: int, concentration: float, *, batch_size: int, seed: int) -> Stream:
    r"""Batches of equal parts, each from a shard of the data with classes of its own.

    The examples of each class are divided among the shards in proportions drawn from a Dirichlet
    distribution, :math:`p \sim \mathrm{Dir}(\alpha \mathbf 1)`. Where shards are devices, each sees other classes.

    Args:
      labels: class of each example.
      shards: parts of a batch; a divisor of ``batch_size``. Choose the number of devices.
      concentration: alpha; 0.1 is strongly skewed, 100 nearly even.
      batch_size: examples of a step.
      seed: decides proportions and order.

    Raises:
      UserError: the batch cannot be divided, or a shard got no example.

    References:
      Hsu, Qi, Brown, `Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification
      <https://arxiv.org/abs/1909.06335>`_, 2019.
    """
    if batch_size % shards:
        raise UserError(f"stream.shards={shards} does not divide batch_size={batch_size}.")
    rng = np.random.default_rng([seed, _SHARDS])
    parts: list[list[np.ndarray]] = [[] for _ in range(shards)]
    for label in _classes(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(shards, concentration))
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(int)
        for part, piece in zip(parts, np.split(members, cuts), strict=True):
            part.append(piece)
    own = [np.concatenate(part) for part in parts]
    if empty := [i for i, part in enumerate(own) if not len(part)]:
        raise UserError(
            f"stream.concentration={concentration:g} leaves shard {empty[0]} of {shards} without an example; "
            "use a larger one, or fewer shards."
        )
    each = batch_size // shards

    def indices(step: int) -> np.ndarray:
        start, stop = step * each, (step + 1) * each
        return np.concatenate(
            [part[example_order(len(part), (seed, _SHARDS, i), start, stop)] for i, part in enumerate(own)]
        )

    return indices


def _classes(labels: np.ndarray) -> np.ndarray:
    """Those that occur; records that cannot be read have none, and come in no batch of these streams."""
    return np.unique(labels[labels != UNREADABLE])
