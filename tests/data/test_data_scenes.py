"""Scenes of digits: boxes, masks and labels are those of what is in the picture."""

import numpy as np
import pytest

from normjax.data import load_source
from normjax.data.scenes import Scenes, SceneSource


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train", seed=0, data_dir=None)


@pytest.fixture(scope="module")
def scenes(digits):
    return SceneSource(digits, 40, size=48, seed=3).read(range(40))


def test_boxes_hug_the_pixels_of_their_object(scenes):
    seen = 0
    for boxes, labels, instances in zip(scenes.boxes, scenes.labels, scenes.instances, strict=True):
        count = int((labels >= 0).sum())
        assert (labels[:count] >= 0).all()
        assert sorted(set(instances.ravel().tolist()) - {0}) == list(range(1, count + 1))
        for number in range(count):
            rows, columns = np.nonzero(instances == number + 1)
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_array_equal(boxes[number], expected)
            seen += 1
        np.testing.assert_array_equal(boxes[count:], 0)
    assert seen > 80


def test_objects_are_lighter_than_their_ground(scenes):
    lighter = [
        image[..., 0][instances > 0].mean() - image[..., 0][instances == 0].mean()
        for image, instances in zip(scenes.image, scenes.instances, strict=True)
    ]
    assert min(lighter) > 30


def test_one_to_six_objects_at_several_scales(scenes):
    counts = (scenes.labels >= 0).sum(1)
    assert set(counts.tolist()) <= set(range(1, 7))
    assert len(set(counts.tolist())) >= 4
    heights = (scenes.boxes[..., 3] - scenes.boxes[..., 1])[scenes.labels >= 0]
    assert heights.max() > 2 * heights.min()


def test_no_object_covers_much_of_another(scenes):
    for boxes, labels in zip(scenes.boxes, scenes.labels, strict=True):
        valid = boxes[labels >= 0]
        for i, a in enumerate(valid):
            for b in valid[:i]:
                shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
                # A fifth of what was placed; what is left of the covered one is smaller.
                assert shared <= 0.4 * min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))


def test_seed_and_index_make_a_scene(digits, scenes):
    again = SceneSource(digits, 40, size=48, seed=3).read([7, 30])
    for a, b in zip(again, scenes, strict=True):
        np.testing.assert_array_equal(a, b[[7, 30]])
    other = SceneSource(digits, 40, size=48, seed=4).read([7])
    assert (other.image[0] != scenes.image[7]).any()


def test_a_digit_too_large_for_the_scene_is_left_out(digits):
    made = SceneSource(digits, 5, size=16, seed=0, heights=(15.0, 40.0)).read(range(5))
    assert isinstance(made, Scenes)
    assert made.image.shape == (5, 16, 16, 1)
    assert (made.labels >= 0).sum() < 10
