"""Records that cannot be read: the run ends and names them, or they are left out, named and counted."""

import logging
import struct
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_cases import TINY_CLASSES, distinct_pixels, records
from run_cases import metrics_of
from tfds_standin import encoded, write_records

from normjax.data import draw_reference, evaluation_batches, load_dataset, training_batches
from normjax.data.options import DataConfig, StreamConfig
from normjax.data.source import UNREADABLE
from normjax.errors import UserError
from normjax.training.config import ModelConfig, RunConfig, ScheduleConfig, TrainConfig
from normjax.training.loop import train

SIDE = 6


def claimed(width, height):
    """A PNG whose header claims a size, without pixels."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


FAULTS = {
    3: ({"image": b"not a picture"}, "record 3: not a picture"),
    11: ({"image": claimed(50_000, 50_000)}, "record 11: "),
    12: ({"image": claimed(1, 1)}, "record 12: 1x1 pixels; it takes 2 a side at least"),
    # Resized by its shorter side it would be an image of gigabytes.
    13: ({"image": claimed(6_000_000, 2)}, "record 13: 6000000x2 pixels; one side may be 100 times the other at most"),
    20: ({"label": -1}, "label -1 of record 20 does not fit 3 classes"),
    29: ({"image": encoded(distinct_pixels(1, 7, 5, 3)[0])}, "record 29"),
}


@pytest.fixture(params=["one size", "any size"])
def folder(request, tmp_path):
    """40 examples to train on and as many to test on, of which a few are damaged, each in its own way."""
    fixed = request.param == "one size"
    shape = (SIDE, SIDE, 3) if fixed else (None, None, 3)
    features = {"image": tfds.features.Image(shape=shape), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
    examples = records(distinct_pixels(40, SIDE, SIDE, 3))
    # Where any size is as good as another, another size is no fault.
    bad = [record for record in FAULTS if fixed or record != 29]
    for record in bad:
        examples[record].update(FAULTS[record][0])
    write_records(tmp_path, "tiny", {"train": examples, "test": examples}, features)
    return tmp_path, bad


def load(path, policy, cache_mib=16):
    options = DataConfig(name="tiny", validation=0, image_size=SIDE, augmentation="none", bad_records=policy)
    return load_dataset(options, seed=0, data_dir=path, cache_mib=cache_mib)


@pytest.mark.parametrize("cache_mib", [0, 16], ids=["read each time", "in memory"])
def test_left_out_records_are_masked_and_named(folder, caplog, cache_mib):
    path, bad = folder
    with caplog.at_level(logging.WARNING):
        dataset = load(path, "skip", cache_mib)
        batches = list(evaluation_batches(dataset.test, dataset.prepare, batch_size=16))
    mask = np.concatenate([batch["mask"] for batch in batches])
    np.testing.assert_array_equal(mask[:40], ~np.isin(np.arange(40), bad))
    assert not mask[40:].any()
    labels = np.concatenate([batch["label"] for batch in batches])[:40]
    np.testing.assert_array_equal(labels[mask[:40]], np.arange(40)[mask[:40]] % 3)
    pixels = np.concatenate([batch["image"] for batch in batches])[:40]
    np.testing.assert_array_equal(pixels[mask[:40]], distinct_pixels(40, SIDE, SIDE, 3)[mask[:40]])
    assert sorted(dataset.test.unreadable) == bad
    for record in bad:
        assert FAULTS[record][1] in dataset.test.unreadable[record]
        assert dataset.test.unreadable[record] in caplog.text


@pytest.mark.parametrize("cache_mib", [0, 16], ids=["read each time", "in memory"])
def test_every_other_record_is_trained_on_once_an_epoch(folder, cache_mib):
    path, bad = folder
    dataset = load(path, "skip", cache_mib)
    batches = list(training_batches(dataset.train, dataset.augment, batch_size=8, seed=0, start=0, stop=5))
    seen = [image.tobytes() for batch in batches for image in batch["image"][batch["mask"]]]
    expected = np.delete(distinct_pixels(40, SIDE, SIDE, 3), bad, 0)
    assert sorted(seen) == sorted(image.tobytes() for image in expected)
    assert all((batch["label"] >= 0).all() for batch in batches)


def test_they_do_not_count_in_mean_and_deviation(folder):
    path, bad = folder
    good = np.delete(distinct_pixels(40, SIDE, SIDE, 3), bad, 0) / 255
    info = load(path, "skip").info
    np.testing.assert_allclose(info.mean, good.mean((0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(info.std, good.std((0, 1, 2)), rtol=1e-3)


@pytest.mark.parametrize("cache_mib", [0, 16], ids=["read each time", "in memory"])
@pytest.mark.parametrize("draw", ["balanced", "random"])
def test_no_reference_batch_holds_one(folder, draw, cache_mib):
    path, bad = folder
    dataset = load(path, "skip", cache_mib)
    size = 40 - len(bad)
    images = draw_reference(dataset.train, dataset.prepare, size=size, draw=draw, seed=0)
    expected = np.delete(distinct_pixels(40, SIDE, SIDE, 3), bad, 0)
    assert sorted(image.tobytes() for image in images) == sorted(image.tobytes() for image in expected)
    with pytest.raises(UserError, match=f"reference.size={size + 1} is more than the {size} training examples"):
        draw_reference(dataset.train, dataset.prepare, size=size + 1, draw=draw, seed=0)


def test_by_default_the_first_one_ends_the_run(folder):
    path, _ = folder
    with pytest.raises(UserError, match=r"tiny \(train\).*record \d+"):
        load(path, "raise")


def test_a_run_counts_what_it_left_out(folder, tmp_path):
    path, bad = folder
    config = TrainConfig(
        epochs=2,
        batch_size=8,
        data=DataConfig(name="tiny", image_size=SIDE, augmentation="none", bad_records="skip"),
        model=ModelConfig(name="mlp", widths=(4,)),
        schedule=ScheduleConfig(warmup_epochs=0),
        run=RunConfig(eval_batch_size=16, log_every=100),
    )
    summary = train(config, tmp_path / "run", data_dir=path)
    assert summary["test"]["examples"] == 40 - len(bad)
    assert len(summary["unreadable_records"]) == 2 * len(bad)


def test_a_test_set_without_a_readable_record_is_an_error(tmp_path):
    features = {"image": tfds.features.Image(shape=(SIDE, SIDE, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    good, bad = records(distinct_pixels(40, SIDE, SIDE, 3)), records(distinct_pixels(4, SIDE, SIDE, 3))
    for record in bad:
        record["image"] = b"not a picture"
    # The last eight of the training set, whose batches hold nothing either, are no reason to end.
    for record in good[32:]:
        record["image"] = b"not a picture"
    write_records(tmp_path, "tiny", {"train": good, "test": bad}, features)
    config = TrainConfig(
        epochs=1,
        batch_size=8,
        data=DataConfig(name="tiny", image_size=SIDE, augmentation="none", bad_records="skip", validation=0),
        stream=StreamConfig(name="sorted"),
        model=ModelConfig(name="mlp", widths=(4,)),
        schedule=ScheduleConfig(warmup_epochs=0),
        run=RunConfig(eval_batch_size=16, log_every=1),
    )
    with pytest.raises(UserError, match=r"none of the 4 examples of tiny \(test\) can be read"):
        train(config, tmp_path / "run", data_dir=tmp_path)
    assert [line["examples"] for line in metrics_of(tmp_path / "run", "train")].count(0) >= 1


def test_a_source_without_damage_is_read_as_it_is(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(SIDE,) * 2 + (3,)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    examples = records(distinct_pixels(40, SIDE, SIDE, 3))
    write_records(tmp_path, "tiny", {"train": examples, "test": examples}, features)
    strict, tolerant = load(tmp_path, "raise"), load(tmp_path, "skip")
    for index in ([0, 39], np.arange(40)):
        for a, b in zip(strict.train.read(index), tolerant.train.read(index), strict=True):
            np.testing.assert_array_equal(a, b)
    assert tolerant.train.unreadable == {}
    assert UNREADABLE not in tolerant.train.labels
