"""From the options to the three parts of a data set and the images in them."""

import numpy as np
import pytest
from data_cases import distinct_pixels, identities, records
from PIL import Image
from tfds_standin import encoded, write_records

from normjax.data import load_dataset
from normjax.data.options import DataConfig
from normjax.errors import UserError


def load(data_dir=None, seed=0, **options):
    return load_dataset(DataConfig(**options), seed=seed, data_dir=data_dir)


def everything(source):
    return source.read(range(len(source)))


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_validation_is_taken_out_of_training_and_nothing_else(share):
    whole, data = load(validation=0.0), load(validation=share)
    both = [*everything(data.train)[0], *everything(data.validation)[0]]
    assert identities(both) == identities(everything(whole.train)[0])
    assert identities(everything(data.test)[0]) == identities(everything(whole.test)[0])
    assert whole.validation is None
    counts = data.info.train_examples, data.info.validation_examples, data.info.test_examples
    assert counts == (len(data.train), len(data.validation), len(data.test))


def test_validation_holds_its_share_of_each_class():
    whole, data = load(validation=0.0), load(validation=0.25)
    total, held = np.bincount(everything(whole.train)[1]), np.bincount(everything(data.validation)[1])
    assert np.abs(held - 0.25 * total).max() <= 0.5


def test_the_seed_decides_the_validation_split():
    chosen = [identities(everything(load(seed=seed, validation=0.25).validation)[0]) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_share_that_leaves_no_validation_example_is_refused():
    # 0.1 % of the 142 to 146 digits of a class rounds to none.
    with pytest.raises(UserError, match=r"data\.validation=0\.001 leaves no validation example of 14\d\d; use 0 or"):
        load(validation=0.001)


def test_images_are_resized_to_the_size_asked_for():
    own, resized = load(validation=0.0, augmentation="none"), load(validation=0.0, augmentation="none", image_size=12)
    assert resized.info.image_shape == (12, 12, 1)
    indices = [0, 3, 700]
    images, labels = resized.train.read(indices)
    originals, expected_labels = own.train.read(indices)
    np.testing.assert_array_equal(labels, expected_labels)
    for image, original in zip(resized.augment.apply(images, np.empty((3, 0))), originals, strict=True):
        expected = Image.fromarray(original[..., 0]).resize((12, 12), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(image[..., 0], np.asarray(expected))


@pytest.mark.parametrize(("augmentation", "draws"), [("none", 0), ("shift", 2), ("crop_flip", 3)])
@pytest.mark.parametrize("image_size", [None, 12])
def test_the_lowest_numbers_shift_by_the_padding_and_mirror_where_asked(augmentation, draws, image_size):
    data = load(augmentation=augmentation, padding=2, image_size=image_size)
    images, _ = data.train.read([5])
    prepared = data.prepare.apply(images, np.empty((1, 0)))
    assert data.augment.draws == draws
    expected = prepared
    if draws:  # the first offset: two rows above and two columns to the left are padding
        expected = np.zeros_like(prepared)
        expected[:, 2:, 2:] = prepared[:, :-2, :-2]
    if augmentation == "crop_flip":
        expected = expected[:, :, ::-1]
    np.testing.assert_array_equal(data.augment.apply(images, np.zeros((1, draws))), expected)


@pytest.mark.parametrize("augmentation", ["none", "shift", "crop_flip", "random_resized_crop"])
@pytest.mark.parametrize("image_size", [None, 4])
def test_training_and_evaluation_images_have_one_shape(tiny_dir, augmentation, image_size):
    # The images of this data set are no squares: a network built for the one would not take the other.
    data = load(tiny_dir, name="tiny", validation=0.0, augmentation=augmentation, image_size=image_size)
    images, _ = everything(data.train)
    u = np.full((len(images), data.augment.draws), 0.5)
    shapes = {data.augment.apply(images, u).shape[1:], data.prepare.apply(images, u[:, :0]).shape[1:]}
    assert shapes == {data.info.image_shape}


def test_evaluation_images_are_not_augmented():
    data = load(augmentation="crop_flip", padding=4)
    images, _ = everything(data.test)
    np.testing.assert_array_equal(data.prepare.apply(images, np.empty((len(images), 0))), images)


def test_classes_that_differ_between_training_and_test_are_refused(tmp_path):
    # Labels are numbers by the order of the names: the same number would mean another class.
    for split, names in {"train": ("ant", "bee"), "test": ("ant", "cat")}.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "1.png").write_bytes(encoded(distinct_pixels(1, 4, 4, 3)[0]))
    with pytest.raises(UserError, match=r"has other classes than .*'ant', 'cat'.*'ant', 'bee'"):
        load(tmp_path, name="folder", image_size=4)


def test_the_splits_named_are_the_ones_read(tiny_dir):
    pixels = distinct_pixels(18, 6, 5, 3)
    data = load(tiny_dir, name="tiny", train_split="test", test_split="train", validation=0.0)
    np.testing.assert_array_equal(everything(data.train)[0], pixels[12:])
    np.testing.assert_array_equal(everything(data.test)[0], pixels[:12])


def test_only_the_test_split_is_decoded_where_only_it_is_wanted(tmp_path):
    # The training images are no pictures, so decoding one would fail.
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    pixels = distinct_pixels(6, 6, 5, 3)
    broken = [{"image": b"no picture", "label": 0}] * 6
    write_records(tmp_path, "broken", {"train": broken, "test": records(pixels)}, features)
    options = DataConfig(name="broken", validation=0.0, mean=(0.5,) * 3, std=(0.5,) * 3)
    data = load_dataset(options, seed=0, data_dir=tmp_path, test_only=True)
    np.testing.assert_array_equal(everything(data.test)[0], pixels)
    with pytest.raises(UserError, match=r"record \d: not a picture"):
        load_dataset(options, seed=0, data_dir=tmp_path)
