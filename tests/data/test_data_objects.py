"""Pictures with boxes from TFDS: fitted into a square, boxes with them."""

import numpy as np
import pytest
from tfds_standin import encoded, write_records

from normjax.data.detection import detection_batches, load_scenes
from normjax.data.tfds_objects import ObjectSource
from normjax.detection.config import SceneConfig
from normjax.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """A data set ``street``: pictures of 40 x 20 and 20 x 40 with a bright rectangle or two, in boxes of TFDS."""
    import tensorflow_datasets as tfds

    def example(i):
        height, width = (20, 40) if i % 2 else (40, 20)
        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[4:12, 2:10] = 250
        pixels[14:18, 12:18] = 120
        boxes = [tfds.features.BBox(4 / height, 2 / width, 12 / height, 10 / width)]
        boxes += [tfds.features.BBox(14 / height, 12 / width, 18 / height, 18 / width)] * (i % 3 > 0)
        return {"image": encoded(pixels), "objects": [{"bbox": box, "label": n} for n, box in enumerate(boxes)]}

    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "objects": tfds.features.Sequence(
            {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["car", "dog"])}
        ),
    }
    write_records(tmp_path, "street", {"train": list(map(example, range(6))), "test": [example(1)]}, features)
    return tmp_path


def test_boxes_move_with_their_pixels(folder):
    source = ObjectSource("street", "train", 80, 3, folder)
    scenes = source.read(range(6))
    assert (len(source), source.classes, source.has_masks) == (6, ("car", "dog"), False)
    for i in range(6):
        # All are enlarged by two; the longer side fills the square.
        np.testing.assert_allclose(scenes.boxes[i, 0], [4, 8, 20, 24], atol=1e-4)
        assert scenes.labels[i].tolist() == ([0, 1, -1] if i % 3 else [0, -1, -1])
        left, top, right, bottom = scenes.boxes[i, 0].round().astype(int)
        assert scenes.image[i, top + 2 : bottom - 2, left + 2 : right - 2].min() > 200
        beyond = scenes.image[i, 40:] if i % 2 else scenes.image[i, :, 40:]
        assert not beyond.any()


def test_the_largest_objects_stay_where_there_are_too_many(folder):
    scenes = ObjectSource("street", "train", 80, 1, folder).read([1])
    np.testing.assert_allclose(scenes.boxes[0], [[4, 8, 20, 24]], atol=1e-4)


def test_a_config_names_it(folder):
    options = SceneConfig(name="street", image_size=40, train_examples=4, test_examples=None, objects=2)
    train, test = load_scenes(options, seed=0, data_dir=folder)
    assert (len(train), len(test)) == (4, 1)
    batches = list(detection_batches(train, batch_size=2, seed=0, start=0, stop=3))
    assert [batch["image"].shape for batch in batches] == [(2, 40, 40, 3)] * 3


def test_a_data_set_without_objects_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    features = {"image": tfds.features.Image(shape=(4, 4, 3)), "label": tfds.features.ClassLabel(names=["a", "b"])}
    write_records(
        tmp_path, "plain", {"train": [{"image": encoded(np.ones((4, 4, 3), np.uint8)), "label": 0}]}, features
    )
    with pytest.raises(UserError, match=r"plain has no image with objects \(bbox, label\); its features are"):
        ObjectSource("plain", "train", 40, 2, tmp_path)


def test_a_split_that_is_not_there_is_refused(folder):
    with pytest.raises(UserError, match="street has no split 'dev'; use one of train, test"):
        ObjectSource("street", "dev", 40, 2, folder)
