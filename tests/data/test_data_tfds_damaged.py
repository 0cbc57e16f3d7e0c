"""Damaged data sets of TFDS: the message names the data set, and the record where there is one."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import encoded, write_records

from normjax.data import load_source
from normjax.data.load import load_dataset
from normjax.data.options import DataConfig
from normjax.errors import UserError


@pytest.fixture
def damaged(tmp_path):
    """A function that writes 40 noise images, changes the bytes of their file, and opens it."""
    features = {"image": tfds.features.Image(shape=(16, 16, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    examples = records(distinct_pixels(40, 16, 16, 3))
    folder = write_records(tmp_path, "tiny", {"train": examples}, features)

    def damage(change):
        (path,) = folder.glob("*.array_record*")
        path.write_bytes(change(path.read_bytes(), examples))
        return load_source("tiny", "train", seed=0, data_dir=tmp_path)

    return damage


def overwritten(content, examples, record=23):
    """The file with the middle of one record's image replaced by garbage."""
    image = examples[record]["image"]
    start = content.index(image) + len(image) // 2
    return content[:start] + b"garbage!" * 5 + content[start + 40 :]


def test_an_overwritten_record_is_named_among_those_asked_for(damaged):
    source = damaged(overwritten)
    with pytest.raises(UserError, match=r"^tiny \(train\): record 23 cannot be read"):
        source.read([7, 39, 23, 0])


def test_records_beside_an_overwritten_one_are_read(damaged):
    source = damaged(overwritten)
    pixels = distinct_pixels(40, 16, 16, 3)
    np.testing.assert_array_equal(source.read([22, 24])[0], pixels[[22, 24]])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_cut_short_is_reported_with_the_data_set(damaged, share):
    source = damaged(lambda content, _: content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"^tiny \(train\): record \d+ cannot be read"):
        source.read(range(40))


def test_a_record_that_holds_no_picture_is_named(tmp_path):
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    examples = records(distinct_pixels(8, 6, 5, 3))
    examples[5]["image"] = b"not a picture"
    write_records(tmp_path, "tiny", {"train": examples}, features)
    source = load_source("tiny", "train", seed=0, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"^tiny \(train\), record 5: not a picture"):
        source.read([3, 5, 4])


def test_a_record_of_another_size_than_declared_is_named(tmp_path):
    # TFDS does not check it when it writes encoded bytes.
    features = {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    examples = records(distinct_pixels(4, 6, 5, 3))
    examples[2]["image"] = encoded(distinct_pixels(1, 7, 5, 3)[0])
    write_records(tmp_path, "tiny", {"train": examples}, features)
    source = load_source("tiny", "train", seed=0, data_dir=tmp_path)
    with pytest.raises(UserError, match=r"^tiny \(train\).* record 2\b"):
        source.read([0, 2, 1])


@pytest.fixture
def unlabelled(tmp_path):
    """1200 examples, of which one carries the -1 that TFDS gives to images without a label."""
    features = {"image": tfds.features.Image(shape=(2, 2, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    labels = np.arange(1200) % 3
    labels[1199] = -1
    examples = records(distinct_pixels(1200, 2, 2, 3), labels)
    write_records(tmp_path, "tiny", {"train": examples, "test": examples[:3]}, features)
    return tmp_path


def test_a_label_out_of_range_is_reported_with_its_record(unlabelled):
    # Not with its place among the records asked for.
    source = load_source("tiny", "train", seed=0, data_dir=unlabelled)
    with pytest.raises(UserError, match=r"tiny \(train\): label -1 of record 1199 does not fit 3 classes; use 0 to 2"):
        source.read([4, 1199, 7])


def test_a_label_out_of_range_is_reported_with_its_record_when_all_are_loaded(unlabelled):
    # Loading reads in parts: the record's number must not start anew in each.
    with pytest.raises(UserError, match=r"label -1 of record 1199 "):
        load_dataset(DataConfig(name="tiny"), seed=0, data_dir=unlabelled)


def test_unreadable_metadata_is_reported_with_the_data_set(tiny_dir):
    (tiny_dir / "tiny" / "1.0.0" / "dataset_info.json").write_text('{"name": ')
    with pytest.raises(UserError, match=r"^data set tiny in .* cannot be opened: "):
        load_source("tiny", "train", seed=0, data_dir=tiny_dir)
