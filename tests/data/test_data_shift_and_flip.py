"""Shifted crops and mirroring, against a plain loop over pixels."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from data_cases import distinct_pixels

from normjax.data.transforms import Transform, shift_and_flip, then

LAST = 1 - 2.0**-53  # the greatest number a generator draws


def moved(image, padding, top, left, mirrored):
    """The image laid on a canvas of zeros, cut out at an offset, mirrored left to right."""
    height, width, channels = image.shape
    out = np.zeros_like(image)
    for y, x, c in product(range(height), range(width), range(channels)):
        row, column = y + top - padding, x + left - padding
        if 0 <= row < height and 0 <= column < width:
            out[y, width - 1 - x if mirrored else x, c] = image[row, column, c]
    return out


def all_moves(image, padding, flip):
    offsets = range(2 * padding + 1)
    return {
        moved(image, padding, top, left, mirrored).tobytes(): (top, left, mirrored)
        for top, left, mirrored in product(offsets, offsets, (False, True) if flip else (False,))
    }


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_even_numbers_give_every_offset_once_and_half_of_them_mirrored(channels, padding, flip):
    (image,) = distinct_pixels(1, 4, 5, channels)
    steps = 2 * padding + 1
    centres = (np.arange(steps) + 0.5) / steps
    u = np.array(list(product(centres, centres, *([(0.25, 0.75)] if flip else []))))
    transform = shift_and_flip(padding, flip=flip)
    assert transform.draws == u.shape[1]
    moves = all_moves(image, padding, flip)
    results = Counter(moves[out.tobytes()] for out in transform.apply(np.repeat(image[None], len(u), 0), u))
    assert results == Counter(moves.values())


def test_offset_is_the_step_of_the_number():
    # The lowest number is the first offset, the highest the last: none of them cuts outside the canvas.
    (image,) = distinct_pixels(1, 4, 5, 3)
    for padding in (1, 2, 4, 64):
        for top, left in product((0.0, LAST), repeat=2):
            out = shift_and_flip(padding, flip=False).apply(image[None], np.array([[top, left]]))
            expected = moved(image, padding, round(2 * padding * top), round(2 * padding * left), mirrored=False)
            np.testing.assert_array_equal(out[0], expected)


def test_drawn_numbers_give_all_moves_equally_often():
    # 9 offsets, mirrored or not: 200 of each in 3600, with a standard deviation of 14.
    (image,) = distinct_pixels(1, 4, 5, 3)
    u = np.random.default_rng(0).random((3600, 3))
    moves = all_moves(image, 1, flip=True)
    out = shift_and_flip(1, flip=True).apply(np.repeat(image[None], 3600, 0), u)
    counts = Counter(moves[result.tobytes()] for result in out)
    assert set(counts) == set(moves.values())
    assert all(abs(count - 200) < 70 for count in counts.values())


def test_each_image_is_moved_by_its_own_numbers():
    images = distinct_pixels(30, 4, 5, 3)
    u = np.random.default_rng(1).random((30, 3))
    transform = shift_and_flip(2, flip=True)
    together = transform.apply(images, u)
    for i in range(30):
        assert together[i].tobytes() in all_moves(images[i], 2, flip=True)
        np.testing.assert_array_equal(transform.apply(images[i : i + 1], u[i : i + 1])[0], together[i])


def test_the_images_given_are_left_as_they_are():
    # They are the cached data set: writing to them would augment the same image over and over.
    images = distinct_pixels(6, 4, 5, 3)
    before = images.copy()
    shift_and_flip(0, flip=True).apply(images, np.zeros((6, 3)))
    np.testing.assert_array_equal(images, before)


def test_then_gives_each_transform_its_own_numbers():
    seen = {}

    def recorder(name, draws):
        return Transform(draws, lambda images, u: (seen.update({name: u.tolist()}), images + np.uint8(draws))[1])

    both = then(recorder("first", 2), then(recorder("second", 0), recorder("third", 1)))
    assert both.draws == 3
    out = both.apply(np.zeros((2, 1, 1, 1), np.uint8), np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]))
    assert seen == {"first": [[0.1, 0.2], [0.4, 0.5]], "second": [[], []], "third": [[0.3], [0.6]]}
    assert out.ravel().tolist() == [3, 3]
