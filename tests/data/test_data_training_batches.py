"""Training batches: a function of seed and step, on any number of processes and threads."""

import numpy as np
import pytest
from data_cases import UnevenSource, numbered_source

from normjax.data import MemorySource, Shard, training_batches
from normjax.data.transforms import identity, random_resized_crop, shift_and_flip

CROPS = {
    "shift_and_flip": (numbered_source(10), shift_and_flip(2, flip=True)),
    "random_resized_crop": (UnevenSource(10), random_resized_crop(6, 6)),
}


def batches(source, transform, *, batch_size, stop, start=0, seed=0, **options):
    return list(
        training_batches(source, transform, batch_size=batch_size, seed=seed, start=start, stop=stop, **options)
    )


def assert_same_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [4, 12, 20, 40])
def test_every_example_comes_once_an_epoch(batch_size, processes):
    # 10 examples: 4 and 12 span epochs, 20 and 40 hold several. The processes' parts make up the batch.
    epochs, size = 12, 10
    steps = epochs * size // batch_size
    shards = [
        batches(numbered_source(size), identity(), batch_size=batch_size, stop=steps, shard=Shard(process, processes))
        for process in range(processes)
    ]
    seen = np.concatenate([part["label"] for parts in zip(*shards, strict=True) for part in parts])
    np.testing.assert_array_equal(np.sort(seen.reshape(epochs, size)), np.tile(np.arange(size), (epochs, 1)))


def test_images_keep_their_labels():
    source = numbered_source(10)
    for batch in batches(source, identity(), batch_size=4, stop=10):
        np.testing.assert_array_equal(batch["image"], source.images[batch["label"]])


@pytest.mark.parametrize("name", CROPS)
def test_a_run_that_starts_late_sees_the_batches_it_would_have_seen(name):
    source, transform = CROPS[name]
    whole = batches(source, transform, batch_size=4, stop=9)
    for start in (1, 3, 8):
        assert_same_batches(batches(source, transform, batch_size=4, start=start, stop=9), whole[start:])


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("name", CROPS)
def test_parts_of_the_processes_make_up_the_batch_of_one(name, processes):
    # A process that drew its own numbers would crop its images in another way than the one process does.
    source, transform = CROPS[name]
    parts = [
        batches(source, transform, batch_size=8, stop=5, shard=Shard(process, processes))
        for process in range(processes)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in step]) for key in step[0]} for step in zip(*parts, strict=True)
    ]
    assert_same_batches(joined, batches(source, transform, batch_size=8, stop=5))


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_change_nothing(threads):
    source, transform = CROPS["shift_and_flip"]
    expected = batches(source, transform, batch_size=4, stop=20)
    assert_same_batches(batches(source, transform, batch_size=4, stop=20, threads=threads), expected)


def test_augmentation_differs_between_rows_steps_and_seeds():
    # One picture 40 times over: were the numbers not drawn anew, rows, steps or seeds would coincide.
    same = MemorySource("same", ["a"], np.repeat(numbered_source(1).images, 40, axis=0), np.zeros(40, int))
    transform = shift_and_flip(2, flip=True)
    first, second = batches(same, transform, batch_size=40, stop=2)
    (other,) = batches(same, transform, batch_size=40, stop=1, seed=1)
    assert len({image.tobytes() for image in first["image"]}) > 20
    for later in (second, other):
        equal = (first["image"] == later["image"]).all((1, 2, 3))
        assert equal.sum() < 10  # each row coincides once in 50
