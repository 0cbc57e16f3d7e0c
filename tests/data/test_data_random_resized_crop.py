"""Random resized crops: each is PIL's resize of a crop that lies in the image, of lawful area and aspect."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from data_cases import distinct_pixels
from PIL import Image

from normjax.data.transforms import random_resized_crop

HEIGHT, WIDTH = 14, 18
ROWS, COLUMNS = 5, 4  # of the result
LAST = 1 - 2.0**-53  # the greatest number a generator draws


def pil_resize(image):
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(picture.resize((COLUMNS, ROWS), Image.Resampling.BILINEAR)).reshape(ROWS, COLUMNS, -1)


@cache
def picture(channels=3):
    return distinct_pixels(1, HEIGHT, WIDTH, channels)[0]


@cache
def crops(channels=3):
    """Every crop of the picture by what it looks like resized: top, left, height, width."""
    image, found = picture(channels), {}
    for height, width in product(range(1, HEIGHT + 1), range(1, WIDTH + 1)):
        for top, left in product(range(HEIGHT - height + 1), range(WIDTH - width + 1)):
            resized = pil_resize(image[top : top + height, left : left + width])
            found[resized.tobytes()] = top, left, height, width
    return found


def crop_of(*u, channels=3):
    """Which crop the numbers give, and whether it is mirrored."""
    out = random_resized_crop(ROWS, COLUMNS).apply([picture(channels)], np.array([u]))[0]
    plain, mirrored = (crops(channels).get(np.ascontiguousarray(side).tobytes()) for side in (out, out[:, ::-1]))
    assert plain or mirrored, f"the numbers {u} give no crop of the picture"
    return plain or mirrored, plain is None


def assert_lawful(height, width, area):
    """Area and aspect as asked for, one pixel less on a side where it is rounded, or cut to the image."""
    assert height * width <= area + 1e-9
    if height < HEIGHT and width < WIDTH:
        assert area < (height + 1) * (width + 1)
        assert width / (height + 1) < 4 / 3
        assert (width + 1) / height > 3 / 4


def test_extreme_numbers_give_lawful_crops():
    for u in product((0.0, 0.5, LAST), repeat=5):
        (top, left, height, width), mirrored = crop_of(*u)
        assert_lawful(height, width, (0.08 + 0.92 * u[0]) * HEIGHT * WIDTH)
        # Lowest number: at the edge above or left; highest: at the edge below or right.
        assert top == {0.0: 0, 0.5: (HEIGHT - height + 1) // 2, LAST: HEIGHT - height}[u[2]]
        assert left == {0.0: 0, 0.5: (WIDTH - width + 1) // 2, LAST: WIDTH - width}[u[3]]
        assert mirrored == (u[4] < 0.5)


@pytest.mark.parametrize(("u", "ratio"), [(0.0, 3 / 4), (0.5, 1), (LAST, 4 / 3)])
def test_aspect_runs_from_three_quarters_to_four_thirds(u, ratio):
    # A tenth of 14 * 18 pixels, of the aspect asked for: known sides, rounded down.
    (_, _, height, width), _ = crop_of(0.02 / 0.92, u, 0, 0, 0)
    assert (height, width) == (int(np.sqrt(25.2 / ratio)), int(np.sqrt(25.2 * ratio)))


def test_drawn_numbers_give_lawful_crops_spread_over_area_and_aspect():
    u = np.random.default_rng(0).random((2000, 5))
    results = [crop_of(*row) for row in u]
    for row, ((_, _, height, width), _) in zip(u, results, strict=True):
        assert_lawful(height, width, (0.08 + 0.92 * row[0]) * HEIGHT * WIDTH)
    assert abs(sum(mirrored for _, mirrored in results) - 1000) < 100  # half of them, sd 22
    # No bias to wide or tall crops where neither is cut to the image.
    small = [width / height for (_, _, height, width), _ in results if height * width < 0.4 * HEIGHT * WIDTH]
    assert abs(np.mean(np.log(small))) < 0.05


def test_grey_images_stay_grey():
    (_, _, height, width), mirrored = crop_of(0.3, 0.7, 0.2, 0.9, 0.9, channels=1)
    assert_lawful(height, width, (0.08 + 0.92 * 0.3) * HEIGHT * WIDTH)
    assert not mirrored


def test_all_of_the_area_at_the_aspect_of_the_image_is_the_image():
    # But for a pixel that rounding down may take off.
    aspect = (1 + np.log(WIDTH / HEIGHT) / np.log(4 / 3)) / 2
    (_, _, height, width), _ = crop_of(LAST, aspect, 0.5, 0.5, 0)
    assert height >= HEIGHT - 1
    assert width >= WIDTH - 1
