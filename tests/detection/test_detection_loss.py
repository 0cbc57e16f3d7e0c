"""Which location is responsible for which object, and what is asked of it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normjax.data import load_source
from normjax.data.scenes import SceneSource
from normjax.detection.loss import assign, detection_losses, generalized_iou
from normjax.models.detector import Detections, locations

SIZE = 64
WHERE = locations((SIZE, SIZE))


@pytest.fixture(scope="module")
def scenes():
    return SceneSource(load_source("digits", "train", seed=0, data_dir=None), 12, size=SIZE, seed=1).read(range(12))


def by_hand(boxes, labels):
    """Owner of each location, by loops."""
    owners = np.full(len(WHERE.x), -1)
    for i, (x, y, stride) in enumerate(zip(*WHERE, strict=True)):
        smallest = np.inf
        for number, ((left, top, right, bottom), label) in enumerate(zip(boxes, labels, strict=True)):
            if label < 0 or not (left < x < right and top < y < bottom):
                continue
            if (max(right - left, bottom - top) <= 20) != (stride == 4):
                continue
            centre = (left + right) / 2, (top + bottom) / 2
            if abs(x - centre[0]) >= 1.5 * stride or abs(y - centre[1]) >= 1.5 * stride:
                continue
            if (area := (right - left) * (bottom - top)) < smallest:
                owners[i], smallest = number, area
    return owners


def test_locations_are_those_of_two_levels():
    x, y, stride = WHERE
    assert (len(x), (stride == 4).sum(), (stride == 8).sum()) == (16 * 16 + 8 * 8, 256, 64)
    np.testing.assert_array_equal((x[:2], y[:2]), [[2, 6], [2, 2]])
    np.testing.assert_array_equal((x[-1], y[-1]), [60, 60])


def test_owners_labels_and_sides_are_those_of_plain_loops(scenes):
    targets = assign(jnp.asarray(scenes.boxes), jnp.asarray(scenes.labels), WHERE)
    for i in range(len(scenes.boxes)):
        owners = by_hand(scenes.boxes[i], scenes.labels[i])
        np.testing.assert_array_equal(targets.owner[i], owners)
        np.testing.assert_array_equal(targets.label[i], np.where(owners >= 0, scenes.labels[i][owners], -1))
        for place in np.flatnonzero(owners >= 0):
            left, top, right, bottom = scenes.boxes[i][owners[place]]
            x, y = WHERE.x[place], WHERE.y[place]
            sides = np.array([x - left, y - top, right - x, bottom - y])
            np.testing.assert_allclose(targets.sides[i, place], sides)
            low = min(sides[0], sides[2]) / max(sides[0], sides[2]) * min(sides[1], sides[3]) / max(sides[1], sides[3])
            np.testing.assert_allclose(targets.centre[i, place], np.sqrt(low), rtol=1e-5)


def test_generalized_iou_by_known_boxes():
    # Unit squares side by side, as sides from a common corner point: union 2, hull 2, nothing shared.
    same = jnp.array([1.0, 1.0, 1.0, 1.0])
    chex.assert_trees_all_close(generalized_iou(same, same), 1.0)
    half = jnp.array([1.0, 1.0, 0.0, 1.0])
    chex.assert_trees_all_close(generalized_iou(same, half), 0.5)
    apart = generalized_iou(jnp.array([1.0, 1.0, 0.0, 0.0]), jnp.array([0.0, 0.0, 1.0, 1.0]))
    chex.assert_trees_all_close(apart, 0.0 - (4 - 2) / 4)


def perfect(scenes, classes=10, sure=12.0):
    """What a detector that knows everything says."""
    boxes, labels = jnp.asarray(scenes.boxes), jnp.asarray(scenes.labels)
    targets = assign(boxes, labels, WHERE)
    said = sure * (2 * jax.nn.one_hot(targets.label, classes) - 1)
    centres = jnp.log(targets.centre.clip(1e-4, 1 - 1e-4) / (1 - targets.centre.clip(1e-4, 1 - 1e-4)))
    # A prototype an object: the mask of the picture in pixels of two.
    own = (scenes.instances[..., None] == np.arange(1, labels.shape[1] + 1)).astype(np.float32)
    share = own.reshape(len(own), 32, 2, 32, 2, -1).mean((2, 4))
    prototypes = jnp.asarray(np.where(share > 0.5, 1.0, -1.0), jnp.float32)
    coefficients = sure * jax.nn.one_hot(targets.owner, labels.shape[1])
    return Detections(said, targets.sides, centres, coefficients, prototypes)


def losses(said, scenes):
    return detection_losses(
        said, jnp.asarray(scenes.boxes), jnp.asarray(scenes.labels), jnp.asarray(scenes.instances), WHERE
    )


def test_a_detector_that_knows_everything_has_next_to_no_loss(scenes):
    each = losses(perfect(scenes), scenes)
    assert float(each.classes) < 1e-3
    np.testing.assert_allclose(each.boxes, 0, atol=1e-3)
    assert float(each.objects) == (scenes.labels >= 0).sum()
    assert float(each.locations) >= float(each.objects) * 0.9
    # Pixels at the edge of an object are half on it, which no mask of pixels of two can say.
    confused = perfect(scenes)._replace(prototypes=-perfect(scenes).prototypes)
    assert float(each.masks) < 0.3 * float(losses(confused, scenes).masks)


@pytest.mark.parametrize("part", ["classes", "sides", "centres", "coefficients"])
def test_every_mistake_costs(scenes, part):
    said = perfect(scenes)
    wrong = {
        "classes": jnp.roll(said.classes, 1, -1),
        "sides": said.sides * 1.5,
        "centres": -said.centres + 1.0,
        "coefficients": -said.coefficients,
    }
    name = {"classes": "classes", "sides": "boxes", "centres": "centres", "coefficients": "masks"}[part]
    good, bad = losses(said, scenes), losses(said._replace(**{part: wrong[part]}), scenes)
    assert float(getattr(bad, name)) > float(getattr(good, name)) + 0.1
    for other in {"classes", "boxes", "centres", "masks"} - {name}:
        chex.assert_trees_all_close(getattr(bad, other), getattr(good, other), rtol=1e-5, atol=1e-5)


def test_pictures_without_objects_ask_only_for_silence(scenes):
    empty = scenes._replace(
        boxes=np.zeros_like(scenes.boxes), labels=np.full_like(scenes.labels, -1), instances=0 * scenes.instances
    )
    said = perfect(empty)
    each = losses(said, empty)
    assert (float(each.boxes), float(each.masks), float(each.locations), float(each.objects)) == (0, 0, 0, 0)
    gradient = jax.grad(lambda said: sum(losses(said, empty)))(said)
    chex.assert_tree_all_finite(gradient)
