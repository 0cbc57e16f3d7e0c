"""Streams that are not drawn alike: what each batch holds, and that all examples come as often as they should."""

from collections import Counter

import numpy as np
import pytest

from normjax.data import MemorySource, make_drift, make_stream, training_batches
from normjax.data.options import StreamConfig
from normjax.data.source import UNREADABLE
from normjax.data.streams import few_classes, skewed_shards, sorted_by_class
from normjax.data.transforms import identity
from normjax.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), [30, 20, 25, 30, 40, 15, 30, 20, 25, 30]))


def source(labels=LABELS):
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return MemorySource("letters", tuple("abcdefghij"), images, labels)


@pytest.mark.parametrize("classes", [1, 2, 5, 10])
def test_a_batch_holds_as_many_of_each_of_its_classes(classes):
    stream = few_classes(LABELS, classes, batch_size=20, seed=0)
    for step in range(40):
        counts = Counter(LABELS[stream(step)].tolist())
        assert sorted(counts.values()) == [20 // classes] * classes


def test_every_class_comes_once_a_round_and_goes_through_all_its_examples():
    stream = few_classes(LABELS, 2, batch_size=10, seed=3)
    rounds = np.array([[sorted(set(LABELS[stream(5 * r + i)])) for i in range(5)] for r in range(12)])
    np.testing.assert_array_equal(np.sort(rounds.reshape(12, 10), 1), np.tile(np.arange(10), (12, 1)))
    assert len({tuple(map(tuple, pairs)) for pairs in rounds}) > 1
    # Class 4 has 40 examples, 5 a round: after 8 rounds each came once.
    seen = np.concatenate([stream(step) for step in range(5 * 8)])
    assert Counter(seen[LABELS[seen] == 4].tolist()) == dict.fromkeys(np.flatnonzero(LABELS == 4).tolist(), 1)


def test_rows_of_the_classes_are_mixed():
    # Devices take consecutive rows; each must see both classes.
    stream = few_classes(LABELS, 2, batch_size=20, seed=0)
    assert all(len(set(LABELS[stream(step)][:10])) == 2 for step in range(10))


def test_a_sorted_stream_shows_each_epoch_class_by_class():
    stream = sorted_by_class(LABELS, batch_size=53, seed=0)
    order = np.concatenate([stream(step) for step in range(10)]).reshape(2, len(LABELS))
    for epoch in order:
        assert (np.diff(LABELS[epoch]) >= 0).all()
        np.testing.assert_array_equal(np.sort(epoch), np.arange(len(LABELS)))
    assert (order[0] != order[1]).any()


def test_shards_have_classes_of_their_own_and_share_no_example():
    stream = skewed_shards(LABELS, 4, 0.1, batch_size=32, seed=0)
    batches = np.array([stream(step).reshape(4, 8) for step in range(60)])
    owners = [set(batches[:, shard].ravel().tolist()) for shard in range(4)]
    assert sum(map(len, owners)) == len(set().union(*owners)) == len(LABELS)
    for own in owners:
        # Most of a shard are few classes, where an even share would be a tenth for each.
        assert max(Counter(LABELS[list(own)].tolist()).values()) > 0.3 * len(own)


def test_a_large_concentration_skews_little():
    stream = skewed_shards(LABELS, 4, 1e4, batch_size=32, seed=0)
    batches = np.array([stream(step).reshape(4, 8) for step in range(60)])
    whole = np.bincount(LABELS, minlength=10) / len(LABELS)
    for shard in range(4):
        own = np.unique(batches[:, shard])
        np.testing.assert_allclose(np.bincount(LABELS[own], minlength=10) / len(own), whole, atol=0.03)


@pytest.mark.parametrize("name", ["shuffled", "few_classes", "sorted", "skewed"])
def test_a_step_has_its_examples_wherever_reading_starts(name):
    shards = {"shards": 4} if name == "skewed" else {}
    options = StreamConfig(name=name, **shards, drift=0.5, drift_steps=9)
    stream = make_stream(options, source(), batch_size=20, seed=1)
    read = {"batch_size": 20, "seed": 1, "stream": stream, "drift": make_drift(options)}
    whole = list(training_batches(source(), identity(), start=0, stop=12, **read))
    later = list(training_batches(source(), identity(), start=7, stop=12, **read))
    for a, b in zip(whole[7:], later, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    fresh = make_stream(options, source(), batch_size=20, seed=1)
    np.testing.assert_array_equal(fresh(9), stream(9))
    other = make_stream(options, source(), batch_size=20, seed=2)
    assert (other(9) != stream(9)).any()


def test_drift_moves_brightness_and_contrast_of_a_step_together():
    drift = make_drift(StreamConfig(drift=0.4, drift_steps=8))
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    for step in range(9):
        contrast, brightness = 1 + 0.4 * np.cos(np.pi * step / 4), 0.2 * np.sin(np.pi * step / 4)
        expected = 255 * np.clip(0.5 + contrast * (images / 255 - 0.5) + brightness, 0, 1)
        np.testing.assert_allclose(drift(images, step), expected, atol=0.51)
    np.testing.assert_array_equal(drift(images, 8), drift(images, 0))


def test_without_drift_pixels_stay():
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    np.testing.assert_array_equal(make_drift(StreamConfig())(images, 3), images)


@pytest.mark.parametrize(
    ("options", "batch_size", "message"),
    [
        ({"name": "few_classes", "classes": 3}, 30, r"stream.classes=3 does not divide the classes \(10\); use one of"),
        ({"name": "few_classes", "classes": 5}, 16, r"stream.classes=5 does not divide batch_size \(16\)"),
        ({"name": "skewed", "shards": 3}, 16, "stream.shards=3 does not divide batch_size=16"),
        ({"name": "skewed", "shards": 256, "concentration": 1e-3}, 256, "leaves shard .* without an example"),
    ],
)
def test_what_does_not_fit_is_told(options, batch_size, message):
    with pytest.raises(UserError, match=message):
        make_stream(StreamConfig(**options), source(), batch_size=batch_size, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 3}, "classes is for stream.name=few_classes, and stream.name=shuffled"),
        ({"name": "sorted", "shards": 4}, "shards is for stream.name=skewed, and stream.name=sorted"),
        ({"drift_steps": 10}, "drift_steps is for a drift, and drift=0"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StreamConfig(**options)


def test_labels_that_are_not_known_are_asked_for():
    unknown = source()
    unknown.labels = None
    with pytest.raises(UserError, match=r"stream.name=sorted needs the labels of all examples"):
        make_stream(StreamConfig(name="sorted"), unknown, batch_size=20, seed=0)


def test_records_that_cannot_be_read_are_no_class_of_their_own():
    labels = np.where(np.arange(len(LABELS)) % 7 == 0, UNREADABLE, LABELS)
    streams = (
        few_classes(labels, 2, batch_size=20, seed=0),
        skewed_shards(labels, 4, 1.0, batch_size=20, seed=0),
    )
    for stream in streams:
        assert UNREADABLE not in labels[np.concatenate([stream(step) for step in range(40)])]
