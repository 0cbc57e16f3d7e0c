"""Resizing the shorter side and cutting out the centre, on images whose result is known."""

import numpy as np
import pytest
from data_cases import distinct_pixels

from normjax.data.transforms import resize_and_centre_crop


def crop(image, size):
    (out,) = resize_and_centre_crop(size).apply([image], np.empty((1, 0)))
    return out


@pytest.mark.parametrize("channels", [1, 3])
def test_the_centre_is_cut_out_of_the_longer_side(channels):
    squares = distinct_pixels(3, 10, 10, channels)
    for axis in (0, 1):
        np.testing.assert_array_equal(crop(np.concatenate(squares, axis), 10), squares[1])


def test_an_image_of_the_right_size_is_left_as_it_is():
    for size in (8, 64, 224):
        (image,) = distinct_pixels(1, size, size, 3)
        np.testing.assert_array_equal(crop(image, size), image)


def test_large_images_are_resized_to_256_and_cut_to_224():
    # Ramps keep their form under a symmetric filter: halved, 512 pixels rising by 1 in 2 rise by 1 a pixel, and
    # the crop starts 16 pixels in. With the shorter side at 224 they would rise by 8/7.
    ramp = np.arange(512) // 2
    image = np.stack([*np.meshgrid(ramp, ramp), np.full((512, 512), 7)], -1).astype(np.uint8)
    inner = 16 + np.arange(224)
    np.testing.assert_array_equal(crop(image, 224), np.stack([*np.meshgrid(inner, inner), np.full((224,) * 2, 7)], -1))


def test_the_shorter_side_decides():
    # 512 x 1024: halved again; the columns cut out are 144 to 368 of 512.
    rows, columns = np.arange(512) // 2, np.clip((np.arange(1024) - 256) // 2, 0, 255)
    image = np.stack(np.broadcast_arrays(rows[:, None], columns[None], 0), -1).astype(np.uint8)
    expected = np.stack(np.broadcast_arrays(16 + np.arange(224)[:, None], 16 + np.arange(224)[None], 0), -1)
    np.testing.assert_array_equal(crop(image, 224), expected)


def test_small_images_are_resized_to_the_size_itself():
    # Below 64 pixels nothing is cut off a square: the corners survive.
    image = np.kron(distinct_pixels(1, 2, 2, 3)[0], np.ones((32, 32, 1), np.uint8))
    np.testing.assert_array_equal(crop(image, 8)[[0, 0, -1, -1], [0, -1, 0, -1]], image[[0, 0, -1, -1], [0, -1, 0, -1]])


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (3, 2), (33, 65), (1000, 7)])
@pytest.mark.parametrize("size", [7, 64])
def test_any_shape_becomes_a_square_of_its_own_colour(shape, size):
    # Rounding must not leave a side a pixel short.
    image = np.broadcast_to(np.array([10, 20, 30], np.uint8), (*shape, 3)).copy()
    np.testing.assert_array_equal(crop(image, size), np.broadcast_to([10, 20, 30], (size, size, 3)))
