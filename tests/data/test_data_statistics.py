"""Mean and standard deviation of the channels: given, or measured on the training examples."""

import numpy as np
import pytest
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import write_records

from normjax.data import load_dataset
from normjax.data.options import DataConfig
from normjax.errors import UserError


def write(data_dir, pixels):
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=pixels.shape[1:]),
        "label": tfds.features.ClassLabel(names=TINY_CLASSES),
    }
    write_records(data_dir, "tiny", {"train": records(pixels), "test": records(pixels[:3])}, features)


def load(data_dir, cache_mib=100, **options):
    config = DataConfig(**{"name": "tiny", "validation": 0.0} | options)
    return load_dataset(config, seed=0, data_dir=data_dir, cache_mib=cache_mib)


def test_measured_values_are_those_of_the_training_images(tmp_path):
    # Channels of unlike range, so that neither their order nor a mean over all of them passes.
    pixels = (distinct_pixels(40, 6, 5, 3) * np.array([0.2, 0.5, 1.0]) + np.array([3, 100, 0])).astype(np.uint8)
    write(tmp_path, pixels)
    scaled = pixels / 255
    info = load(tmp_path).info
    np.testing.assert_allclose(info.mean, scaled.mean((0, 1, 2)), atol=5.1e-5)  # rounded to four digits
    np.testing.assert_allclose(info.std, scaled.std((0, 1, 2)), atol=5.1e-5)


def test_validation_and_test_images_are_not_measured():
    # Statistics of what is held out would leak it into training.
    data = load_dataset(DataConfig(validation=0.5), seed=0, data_dir=None)
    images, _ = data.train.read(range(len(data.train)))
    np.testing.assert_allclose(data.info.mean, (images / 255).mean(), atol=5.1e-5)
    np.testing.assert_allclose(data.info.std, (images / 255).std(), atol=5.1e-5)
    held_out, _ = data.validation.read(range(len(data.validation)))
    assert abs((held_out / 255).mean() - (images / 255).mean()) > 1e-3  # the two can be told apart


@pytest.mark.parametrize("cache_mib", [0, 100])
def test_images_are_measured_as_they_are_fed(tmp_path, cache_mib):
    # The outer columns of a wide image are cut off before the network sees it.
    pixels = np.concatenate([distinct_pixels(20, 8, 8, 3) // 4, np.full((20, 8, 16, 3), 255, np.uint8)], 2)
    write(tmp_path, np.roll(pixels, 8, axis=2))
    info = load(tmp_path, image_size=8, cache_mib=cache_mib).info
    expected = (distinct_pixels(20, 8, 8, 3) // 4) / 255
    np.testing.assert_allclose(info.mean, expected.mean((0, 1, 2)), atol=5.1e-5)
    np.testing.assert_allclose(info.std, expected.std((0, 1, 2)), atol=5.1e-5)


def test_values_given_are_taken_and_the_other_is_measured(tiny_dir):
    measured = load(tiny_dir).info
    given = load(tiny_dir, mean=(0.1, 0.2, 0.3)).info
    assert (given.mean, given.std) == ((0.1, 0.2, 0.3), measured.std)
    given = load(tiny_dir, std=(0.1, 0.2, 0.3)).info
    assert (given.mean, given.std) == (measured.mean, (0.1, 0.2, 0.3))
    # A mean of zero is a value, not a missing one.
    assert load(tiny_dir, mean=(0.0, 0.0, 0.0)).info.mean == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_wrong_number_of_channels_is_refused(tiny_dir, name):
    with pytest.raises(UserError, match=rf"data\.{name} has 1 values for 3 channels; give 3"):
        load(tiny_dir, **{name: (0.5,)})


@pytest.mark.parametrize("value", [0, 37, 100, 191, 255])
def test_a_constant_channel_is_refused(tmp_path, value):
    # It would be divided by zero. Its variance must be zero, not what rounding leaves of it.
    pixels = distinct_pixels(40, 6, 5, 3)
    pixels[..., 1] = value
    write(tmp_path, pixels)
    with pytest.raises(UserError, match=r"a channel is constant, so it cannot be scaled; set data\.mean and data\.std"):
        load(tmp_path)


def test_a_channel_that_hardly_varies_has_a_std_above_zero(tmp_path):
    # One pixel of 20,000 differs by one step: 2.8e-5, which four digits round to 0.
    pixels = distinct_pixels(200, 10, 10, 3)
    pixels[..., 1] = 0
    pixels[0, 0, 0, 1] = 1
    write(tmp_path, pixels)
    assert min(load(tmp_path).info.std) > 0
