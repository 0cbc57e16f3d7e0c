"""Decoding once or every time: nothing but the speed may differ, as a resumed run may change it."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import write_records, write_standin

from normjax.data import evaluation_batches, load_dataset, training_batches
from normjax.data.options import DataConfig

OPTIONS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "validation": 0.0}


def all_batches(dataset):
    seen = list(training_batches(dataset.train, dataset.augment, batch_size=8, seed=0, start=0, stop=6))
    for part in (dataset.validation, dataset.test):
        if part is not None:
            seen += evaluation_batches(part, dataset.prepare, batch_size=8)
    return seen


def assert_cache_changes_nothing(data_dir, **options):
    lazy, cached = (
        load_dataset(DataConfig(**OPTIONS | options), seed=0, data_dir=data_dir, cache_mib=mib) for mib in (0, 100)
    )
    assert lazy.info == cached.info
    for one, other in zip(all_batches(lazy), all_batches(cached), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    return lazy, cached


@pytest.mark.parametrize("augmentation", ["none", "shift", "crop_flip", "random_resized_crop"])
def test_batches_are_the_same(tiny_dir, augmentation):
    assert_cache_changes_nothing(tiny_dir, name="tiny", augmentation=augmentation, image_size=5)


@pytest.mark.parametrize("augmentation", ["none", "crop_flip", "random_resized_crop"])
def test_batches_of_images_of_different_sizes_are_the_same(tmp_path, augmentation):
    write_standin(tmp_path, "imagenet2012")
    options = {"name": "imagenet2012", "test_split": "validation", "image_size": 16}
    assert_cache_changes_nothing(tmp_path, augmentation=augmentation, **options)


def test_mean_and_std_measured_are_the_same(tiny_dir):
    assert_cache_changes_nothing(tiny_dir, name="tiny", mean=None, std=None)


def test_validation_examples_are_the_same(tmp_path):
    # Were the split by class only where labels are in memory, the cache would decide which examples are trained on.
    features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    pixels = distinct_pixels(66, 4, 4, 3)
    write_records(tmp_path, "tiny", {"train": records(pixels[:60]), "test": records(pixels[60:])}, features)
    assert_cache_changes_nothing(tmp_path, name="tiny", validation=0.2)


def test_the_images_cached_are_those_on_the_disk(tiny_dir):
    # The splits are decoded in parallel parts: their order must survive.
    lazy, cached = assert_cache_changes_nothing(tiny_dir, name="tiny")
    assert cached.train.in_memory
    assert not lazy.train.in_memory
    np.testing.assert_array_equal(cached.train.read(range(12))[0], distinct_pixels(18, 6, 5, 3)[:12])


def test_many_parts_are_put_together_in_order(tmp_path):
    features = {"image": tfds.features.Image(shape=(2, 2, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    pixels = distinct_pixels(1600, 2, 2, 3)
    write_records(tmp_path, "tiny", {"train": records(pixels), "test": records(pixels[:3])}, features)
    data = load_dataset(DataConfig(**OPTIONS | {"name": "tiny"}), seed=0, data_dir=tmp_path)
    images, labels = data.train.read(range(1600))
    np.testing.assert_array_equal(images, pixels)
    np.testing.assert_array_equal(labels, np.arange(1600) % 3)


def test_a_split_is_cached_only_where_it_fits(tmp_path):
    # 12 images of 200 x 200 x 3 bytes are 1.37 MiB, six of them 0.69.
    features = {"image": tfds.features.Image(shape=(200, 200, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    pixels = np.repeat(np.repeat(distinct_pixels(18, 2, 2, 3), 100, 1), 100, 2)
    write_records(tmp_path, "large", {"train": records(pixels[:12]), "test": records(pixels[12:])}, features)
    data = load_dataset(DataConfig(**OPTIONS | {"name": "large"}), seed=0, data_dir=tmp_path, cache_mib=1)
    assert not data.train.in_memory
    assert data.test.in_memory
