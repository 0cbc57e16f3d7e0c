"""Evaluation batches: every example exactly once, the rest masked."""

import numpy as np
import pytest
from data_cases import UnevenSource, numbered_source

from normjax.data import Shard, evaluation_batches
from normjax.data.transforms import identity, resize_and_centre_crop


def parts(source, transform, batch_size, processes):
    """The batches of each process."""
    shards = [Shard(process, processes) for process in range(processes)]
    return [list(evaluation_batches(source, transform, batch_size=batch_size, shard=shard)) for shard in shards]


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 5, 8, 13])
@pytest.mark.parametrize("batch_size", [4, 8, 16])
def test_every_example_comes_once_through_the_mask(batch_size, size, processes):
    source = numbered_source(size)
    shards = parts(source, identity(), batch_size, processes)
    # Were one process to stop earlier, the others would wait for it forever.
    assert {len(batches) for batches in shards} == {-(-size // batch_size)}
    rows = [part for step in zip(*shards, strict=True) for part in step]
    image, label, mask = (np.concatenate([row[key] for row in rows]) for key in ("image", "label", "mask"))
    np.testing.assert_array_equal(label[mask], np.arange(size))
    np.testing.assert_array_equal(image[mask], source.images)
    # The images hold no zero of their own, so zeros are padding.
    assert not image[~mask].any()
    assert not label[~mask].any()
    assert {row["label"].dtype for row in rows} == {np.dtype(np.int32)}


def test_a_process_with_nothing_but_padding_gets_zeros_of_the_shape_of_an_image():
    # 3 examples in a batch of 8 on 4 processes: the parts of the last two are empty.
    shards = parts(UnevenSource(3), resize_and_centre_crop(4), batch_size=8, processes=4)
    for batches in shards[2:]:
        (batch,) = batches
        np.testing.assert_array_equal(batch["image"], np.zeros((2, 4, 4, 3), np.uint8))
        np.testing.assert_array_equal(batch["label"], [0, 0])
        np.testing.assert_array_equal(batch["mask"], [False, False])


def test_images_of_different_sizes_are_prepared_one_by_one():
    source, prepare = UnevenSource(7), resize_and_centre_crop(4)
    (batches,) = parts(source, prepare, batch_size=4, processes=1)
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches])
    for image, original in zip(images, source.images, strict=True):
        np.testing.assert_array_equal(image, prepare.apply([original], np.empty((1, 0)))[0])


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_do_not_change_the_order(threads):
    labels = [b["label"] for b in evaluation_batches(numbered_source(40), identity(), batch_size=4, threads=threads)]
    np.testing.assert_array_equal(np.concatenate(labels), np.arange(40))
