"""Objects out of what a detector says, and average precisions that are known beforehand."""

import numpy as np
import pytest
from test_detection_loss import SIZE, WHERE, perfect

from normjax.data import load_source
from normjax.data.scenes import Scenes, SceneSource
from normjax.detection.scores import Objects, Precision, find_objects, suppress
from normjax.errors import UserError

CLASSES = tuple("0123456789")


@pytest.fixture(scope="module")
def scenes():
    return SceneSource(load_source("digits", "train", seed=0, data_dir=None), 12, size=SIZE, seed=1).read(range(12))


def average_precision(found, scenes, classes, parts=1):
    precision = Precision(classes, (SIZE, SIZE), masks=bool(scenes.instances.any()))
    for rows in np.array_split(np.arange(len(found)), parts):
        precision.add([found[row] for row in rows], Scenes(*(part[rows] for part in scenes)))
    return precision.figures()


def truth(scenes):
    """The objects themselves, all found."""
    found = []
    for boxes, labels, instances in zip(scenes.boxes, scenes.labels, scenes.instances, strict=True):
        valid = np.flatnonzero(labels >= 0)
        masks = np.array([instances == number + 1 for number in valid]).reshape(-1, SIZE, SIZE)
        found.append(Objects(boxes[valid], labels[valid], np.ones(len(valid)), masks))
    return found


def test_what_is_there_has_full_precision(scenes):
    scores = average_precision(truth(scenes), scenes, CLASSES)
    assert scores == {"box_ap": 100.0, "box_ap50": 100.0, "mask_ap": 100.0, "mask_ap50": 100.0}


def test_another_class_has_none(scenes):
    wrong = [found._replace(labels=(found.labels + 1) % 10) for found in truth(scenes)]
    assert average_precision(wrong, scenes, CLASSES)["box_ap"] < 15


def test_a_box_counts_up_to_its_overlap(scenes):
    # Boxes of 5/8 of the height share 0.625 with the truth: right for 0.5, 0.55 and 0.6, wrong for seven others.
    cut = []
    for found in truth(scenes):
        boxes = found.boxes.copy()
        boxes[:, 3] = boxes[:, 1] + 0.625 * (boxes[:, 3] - boxes[:, 1])
        cut.append(found._replace(boxes=boxes))
    scores = average_precision(cut, scenes, CLASSES)
    np.testing.assert_allclose((scores["box_ap"], scores["box_ap50"]), (30.0, 100.0))


def test_pictures_may_come_in_parts(scenes):
    found = [objects._replace(boxes=objects.boxes + 2.0) for objects in truth(scenes)]
    whole = average_precision(found, scenes, CLASSES)
    assert average_precision(found, scenes, CLASSES, parts=5) == whole
    assert 0 < whole["box_ap"] < 100


def test_without_an_object_there_is_no_score(scenes):
    empty = scenes._replace(labels=np.full_like(scenes.labels, -1))
    with pytest.raises(UserError, match="the test pictures hold no object"):
        average_precision(truth(scenes), empty, CLASSES)


def test_nothing_found_scores_nothing(scenes):
    empty = Objects(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros((0, SIZE, SIZE), bool))
    assert average_precision([empty] * 12, scenes, CLASSES)["box_ap"] == 0.0


def test_without_masks_only_boxes_are_scored(scenes):
    bare = scenes._replace(instances=np.zeros_like(scenes.instances))
    assert set(average_precision(truth(scenes), bare, CLASSES)) == {"box_ap", "box_ap50"}


def test_a_detector_that_knows_everything_finds_everything(scenes):
    found = find_objects(perfect(scenes), WHERE, (SIZE, SIZE))
    scores = average_precision(found, scenes, CLASSES)
    assert scores["box_ap"] > 95
    # Prototypes have half the resolution, so the masks of thin strokes are coarse.
    assert scores["mask_ap50"] > 95


def test_of_boxes_on_top_of_each_other_the_surest_stays():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [5, 0, 15, 10]], float)
    labels = np.array([1, 1, 2, 1])
    # The second shares 0.9 with the first, the third is of another class, the fourth shares a third.
    np.testing.assert_array_equal(suppress(boxes, labels), [0, 2, 3])
    np.testing.assert_array_equal(suppress(boxes, labels, threshold=0.3), [0, 2])
