"""From a config to the training, validation and test examples of a run."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from normjax.data.classes import of_classes
from normjax.data.digits import load_digits
from normjax.data.folder import load_folder
from normjax.data.options import DataConfig
from normjax.data.source import UNREADABLE, DatasetInfo, MemorySource, Source, Subset
from normjax.data.splits import random_split, stratified_split
from normjax.data.tfds import load_tfds
from normjax.data.tolerant import Tolerant
from normjax.data.transforms import (
    Transform,
    identity,
    random_resized_crop,
    resize_and_centre_crop,
    shift_and_flip,
    then,
)
from normjax.errors import UserError


class Dataset(NamedTuple):
    """The three parts of a data set and how their images are prepared."""

    train: Source
    validation: Source | None
    test: Source
    augment: Transform
    prepare: Transform  # for evaluation and prediction
    info: DatasetInfo


def load_source(name: str, split: str, *, seed: int, data_dir: Path | None) -> Source:
    """One split of a data set, by name.

    Raises:
      UserError: the data set or the split is not there; the message says how to get it.
    """
    if name in ("digits", "folder"):
        if split not in ("train", "test"):
            raise UserError(f"{name} has no split {split!r}; use train or test.")
        if name == "digits":
            return load_digits(split, seed)
        if data_dir is None:
            raise UserError("data.name='folder' needs --data-dir, the folder that holds a folder for each class.")
        return load_folder(data_dir, split, seed)
    return load_tfds(name, split, data_dir)


def load_dataset(
    options: DataConfig, *, seed: int, data_dir: Path | None, cache_mib: int = 2048, test_only: bool = False
) -> Dataset:
    """All that a run needs of its data; splits that fit in memory are decoded once.

    Args:
      options: the ``data`` section of a config.
      seed: decides the splits.
      data_dir: where data sets lie.
      cache_mib: a split is decoded once where it fits in this many MiB.
      test_only: do not decode the training split (``mean`` and ``std`` must be given).

    Raises:
      UserError: data are missing or do not fit the options.
    """
    whole = load_source(options.name, options.train_split, seed=seed, data_dir=data_dir)
    test = load_source(options.name, options.test_split, seed=seed, data_dir=data_dir)
    if options.bad_records == "skip":
        whole, test = Tolerant(whole), Tolerant(test)
    if test.classes != whole.classes:
        raise UserError(f"{test.name} has other classes than {whole.name}: {test.classes} and {whole.classes}.")
    prepare, augment, shape = _transforms(options, whole)
    if options.classes:
        whole, test = (
            of_classes(_in_memory(source, prepare, shape, options, cache_mib), options.classes)
            for source in (whole, test)
        )
    parts = _validation_split(whole, options.validation, seed)
    if not test_only:
        whole = _in_memory(whole, prepare, shape, options, cache_mib)
    test = _in_memory(test, prepare, shape, options, cache_mib)
    train, validation = _split(whole, parts)
    mean, std = _channel_statistics(options, train, prepare, shape[-1])
    info = DatasetInfo(
        name=options.name,
        classes=whole.classes,
        image_shape=shape,
        mean=mean,
        std=std,
        train_examples=len(train),
        validation_examples=len(validation) if validation is not None else 0,
        test_examples=len(test),
    )
    return Dataset(train, validation, test, augment, prepare, info)


def _transforms(options: DataConfig, source: Source) -> tuple[Transform, Transform, tuple[int, int, int]]:
    size = options.image_size
    if source.image_shape is None and size is None:
        raise UserError(f"the images of {source.name} differ in size; set data.image_size, for example 32 or 224.")
    channels = source.image_shape[-1] if source.image_shape else 3
    shape = (size, size, channels) if size else source.image_shape
    assert shape is not None
    fixed = source.image_shape == shape
    prepare = identity() if fixed else resize_and_centre_crop(shape[0])
    if options.augmentation == "none":
        return prepare, prepare, shape
    if options.augmentation == "random_resized_crop":
        return prepare, random_resized_crop(*shape[:2]), shape
    moved = shift_and_flip(options.padding, flip=options.augmentation == "crop_flip")
    return prepare, moved if fixed else then(prepare, moved), shape


def _in_memory(
    source: Source, prepare: Transform, shape: tuple[int, int, int], options: DataConfig, cache_mib: int
) -> Source:
    """The source decoded into one array where that fits and changes nothing but the speed."""
    # A random crop is taken from the picture as it is, not from one resized before.
    cropped = options.augmentation == "random_resized_crop" and source.image_shape != shape
    fits = len(source) * math.prod(shape) <= cache_mib * 2**20
    if source.in_memory or cropped or not fits:
        return source

    def decode(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = source.read(indices)
        return prepare.apply(images, np.empty((len(labels), 0))), labels

    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(decode, np.array_split(np.arange(len(source)), max(1, len(source) // 512))))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return MemorySource(source.name, source.classes, images, labels, source.unreadable)


def _validation_split(source: Source, share: float, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices to train and to validate on; by class where the source knows its labels without reading them all."""
    if share == 0:
        return None
    if source.labels is None:
        parts = random_split(len(source), share, seed)
    else:
        parts = stratified_split(source.labels, share, seed)
    if not len(parts[1]):
        raise UserError(
            f"data.validation={share:g} leaves no validation example of {len(source)}; use 0 or a larger share."
        )
    return parts


def _split(source: Source, parts: tuple[np.ndarray, np.ndarray] | None) -> tuple[Source, Source | None]:
    return (source, None) if parts is None else (Subset(source, parts[0]), Subset(source, parts[1]))


def _channel_statistics(
    options: DataConfig, train: Source, prepare: Transform, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    for name, value in (("mean", options.mean), ("std", options.std)):
        if value is not None and len(value) != channels:
            raise UserError(f"data.{name} has {len(value)} values for {channels} channels; give {channels}.")
    if options.mean is not None and options.std is not None:
        return options.mean, options.std
    # Ten thousand images, evenly spaced, settle both to three digits.
    chosen = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(int)
    total, squares, count = np.zeros(channels, np.int64), np.zeros(channels, np.int64), 0
    for part in np.array_split(chosen, max(1, len(chosen) // 500)):
        images, labels = train.read(part)
        pixels = prepare.apply(images, np.empty((len(labels), 0)))[labels != UNREADABLE]
        pixels = pixels.reshape(-1, channels).astype(np.int64)
        total, squares, count = total + pixels.sum(0), squares + (pixels**2).sum(0), count + len(pixels)
    # Exact in whole numbers, so that a constant channel is told from one that hardly varies.
    spread = [count * int(q) - int(t) ** 2 for q, t in zip(squares, total, strict=True)]
    if min(spread) <= 0:
        raise UserError(f"{train.name}: a channel is constant, so it cannot be scaled; set data.mean and data.std.")
    return (
        options.mean or tuple(float(f"{t / count / 255:.4g}") for t in total),
        options.std or tuple(float(f"{math.sqrt(s) / count / 255:.4g}") for s in spread),
    )
