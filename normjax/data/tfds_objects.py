"""Data sets of TFDS with boxes around objects, such as COCO and VOC."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from normjax.data.decode import decode_image
from normjax.data.scenes import Scenes
from normjax.data.tfds import open_tfds
from normjax.errors import UserError


class ObjectSource:
    """Pictures with the features ``image`` and ``objects`` (``bbox``, ``label``), fitted into a square.

    A picture is resized so that its longer side fits, and padded with zeros on the right and below. TFDS has no masks
    for these data sets.

    Args:
      name: as TFDS knows it, for example ``coco/2017`` or ``voc/2012``.
      split: as TFDS knows it.
      size: side of the square.
      objects: most objects of a picture, the largest first. Crowds and objects marked as difficult are left out.
      data_dir: where prepared data sets lie.
      most: how many pictures; None is all.

    Raises:
      UserError: the data set is not there, or has no such features.
    """

    has_masks = False
    channels = 3

    def __init__(self, name: str, split: str, size: int, objects: int, data_dir: Path | None, most: int | None = None):
        builder = open_tfds(name, data_dir)
        features = builder.info.features
        inner = getattr(features["objects"], "feature", {}) if "objects" in features else {}
        if "image" not in features or not {"bbox", "label"} <= set(inner):
            raise UserError(f"{name} has no image with objects (bbox, label); its features are {', '.join(features)}.")
        try:
            count = builder.info.splits[split].num_examples
        except (KeyError, ValueError) as error:
            raise UserError(f"{name} has no split {split!r}; use one of {', '.join(builder.info.splits)}.") from error
        import tensorflow_datasets as tfds

        self.name = f"{name} ({split})"
        self.classes = tuple(inner["label"].names)
        self.records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        self.size, self.objects = size, objects
        self.count = count if most is None else min(most, count)

    def __len__(self) -> int:
        return self.count

    def read(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The pictures of these numbers."""
        records = self.records.__getitems__([int(index) for index in indices])
        parts = [
            self._fit(record, f"{self.name}, record {index}") for index, record in zip(indices, records, strict=True)
        ]
        return Scenes(*(np.stack(part) for part in zip(*parts, strict=True)))

    def _fit(self, record: dict, name: str) -> Scenes:
        image = decode_image(record["image"], 3, name)
        height, width = image.shape[:2]
        factor = self.size / max(height, width)
        shape = max(1, round(width * factor)), max(1, round(height * factor))
        canvas = np.zeros((self.size, self.size, 3), np.uint8)
        canvas[: shape[1], : shape[0]] = np.asarray(Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR))
        # TFDS: top, left, bottom, right as shares of the picture.
        found = np.asarray(record["objects"]["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]
        found = found * np.array([shape[0], shape[1], shape[0], shape[1]], np.float32)
        area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
        for mark in ("is_crowd", "is_difficult"):
            if mark in record["objects"]:
                area = np.where(record["objects"][mark], 0, area)
        order = np.argsort(-area, kind="stable")[: self.objects]
        order = order[area[order] > 0]
        boxes, labels = np.zeros((self.objects, 4), np.float32), np.full(self.objects, -1, np.int32)
        boxes[: len(order)] = found[order]
        labels[: len(order)] = np.asarray(record["objects"]["label"])[order]
        return Scenes(canvas, boxes, labels, np.zeros((self.size, self.size), np.uint8))
