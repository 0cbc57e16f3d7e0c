"""Data sets of TFDS: what was written is read back, by index, without TensorFlow."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import encoded, write_records, write_standin

from normjax.data import load_source
from normjax.errors import UserError


def load(name, split, data_dir):
    return load_source(name, split, seed=0, data_dir=data_dir)


def test_images_and_labels_come_back_by_index_in_any_order(tiny_dir):
    # The writer's order is the order of the records: example i is image i of class i mod 3.
    pixels = distinct_pixels(18, 6, 5, 3)
    train, test = load("tiny", "train", tiny_dir), load("tiny", "test", tiny_dir)
    assert (len(train), len(test)) == (12, 6)
    for indices in ([0], [11, 0, 7, 7], range(12), np.array([5, 3])):
        images, labels = train.read(indices)
        np.testing.assert_array_equal(images, pixels[list(indices)])
        np.testing.assert_array_equal(labels, np.array(list(indices)) % 3)
    images, _ = test.read([5, 0])
    np.testing.assert_array_equal(images, pixels[[17, 12]])


def test_class_names_are_in_the_order_of_the_labels(tmp_path):
    # By the alphabet they would be mixed up.
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["zebra", "ant", "mole"])}
    names = ["ant", "mole", "zebra", "ant"]
    pixels = map(encoded, distinct_pixels(4, 2, 2, 3))
    examples = [{"image": image, "label": name} for image, name in zip(pixels, names, strict=True)]
    write_records(tmp_path, "named", {"train": examples}, features)
    source = load("named", "train", tmp_path)
    assert [source.classes[label] for label in source.read(range(4))[1]] == names


def test_images_of_different_sizes_come_as_they_are(tmp_path):
    pixels = [distinct_pixels(1, 3 + i, 7 - i, 3, seed=i)[0] for i in range(4)]
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    write_records(tmp_path, "uneven", {"train": records(pixels)}, features)
    images, _ = load("uneven", "train", tmp_path).read([3, 0, 2])
    for image, index in zip(images, [3, 0, 2], strict=True):
        np.testing.assert_array_equal(image, pixels[index])


def test_grey_images_keep_their_one_channel(tmp_path):
    pixels = distinct_pixels(4, 6, 5, 1)
    features = {"image": tfds.features.Image(shape=(6, 5, 1)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    write_records(tmp_path, "grey", {"train": records(pixels)}, features)
    source = load("grey", "train", tmp_path)
    assert source.image_shape == (6, 5, 1)
    np.testing.assert_array_equal(source.read(range(4))[0], pixels)


def test_images_with_alpha_come_as_rgb(tmp_path):
    # Four channels are declared; the decoder gives one or three.
    pixels = distinct_pixels(3, 6, 5, 3)
    alpha = np.concatenate([pixels, np.full((3, 6, 5, 1), 255, np.uint8)], -1)
    features = {"image": tfds.features.Image(shape=(6, 5, 4)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    write_records(tmp_path, "alpha", {"train": records(alpha)}, features)
    np.testing.assert_array_equal(load("alpha", "train", tmp_path).read(range(3))[0], pixels)


def test_several_files_of_a_split_are_one_sequence(tmp_path):
    # TFDS cuts large splits into files; the index runs through them all.
    pixels = distinct_pixels(10, 6, 5, 3)
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    folder = write_records(tmp_path, "sharded", {"train": records(pixels)}, features, files=3)
    assert len(list(folder.glob("*.array_record*"))) == 3
    np.testing.assert_array_equal(load("sharded", "train", tmp_path).read([9, 0, 4, 5])[0], pixels[[9, 0, 4, 5]])


def test_a_standin_of_imagenet_is_opened_as_prepared(tmp_path):
    # As a user's own copy would be: by name, from the folder, with all 1000 classes and JPEGs of any size.
    written = write_standin(tmp_path, "imagenet2012")
    source = load("imagenet2012", "validation", tmp_path)
    assert source.classes[0] == "n01440764"  # tench
    assert len(source.classes) == 1000
    images, labels = source.read(range(12))
    assert labels.tolist() == [example["label"] for example in written["validation"]]
    assert len({image.shape for image in images}) > 6
    # The tint by class survives the compression.
    brightness = [image.mean() for image in images]
    assert max(brightness[0::4]) < min(brightness[1::4]) < max(brightness[2::4]) < min(brightness[3::4])


def test_reading_needs_no_tensorflow(tiny_dir):
    code = (
        "import sys; from pathlib import Path; from normjax.data import load_source;"
        "load_source('tiny', 'train', seed=0, data_dir=Path(sys.argv[1])).read([0]);"
        "sys.exit('tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_dir)], check=True)


def test_an_unknown_split_names_those_there_are(tiny_dir):
    with pytest.raises(UserError, match=r"tiny has no split 'validation'; use one of .*train"):
        load("tiny", "validation", tiny_dir)


@pytest.mark.parametrize(
    "features",
    [
        {"image": tfds.features.Image(shape=(6, 5, 3))},
        {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.Scalar(np.int64)},
        {"image": tfds.features.Image(shape=(6, 5, 3)), "kind": tfds.features.ClassLabel(names=TINY_CLASSES)},
    ],
)
def test_a_data_set_without_a_class_label_is_refused_with_its_features(tmp_path, features):
    example = {"image": encoded(distinct_pixels(1, 6, 5, 3)[0])} | {key: 1 for key in features if key != "image"}
    write_records(tmp_path, "unlabelled", {"train": [example]}, features)
    with pytest.raises(UserError, match=r"unlabelled has no image and class label; its features are .*image"):
        load("unlabelled", "train", tmp_path)
