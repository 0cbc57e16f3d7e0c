"""Objects out of what a detector says, and their average precision by pycocotools."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from normjax.data.scenes import Scenes
from normjax.errors import UserError
from normjax.models.detector import Detections, Locations

_CANDIDATES, _KEPT, _FAINTEST, _SAME = 100, 20, 0.05, 0.6


class Objects(NamedTuple):
    """What was found in one image, the surest first."""

    boxes: np.ndarray  # left, top, right, bottom in pixels, (objects, 4)
    labels: np.ndarray  # (objects,)
    scores: np.ndarray  # 0 to 1, (objects,)
    masks: np.ndarray  # bool, (objects, height, width); 0 x 0 where masks are not known


def find_objects(said: Detections, where: Locations, size: tuple[int, int], *, masks: bool = True) -> list[Objects]:
    """The objects in each image: the surest locations, without those that mean the same object.

    Args:
      said: by the detector.
      where: its locations.
      size: height and width of the images.
      masks: whether masks are made, where the detector has learned any.
    """
    classes, sides, centres, coefficients, prototypes = (np.asarray(part) for part in said)
    probability = _sigmoid(classes) * _sigmoid(centres)[..., None]
    scores, labels = np.sqrt(probability.max(-1)), probability.argmax(-1)
    centre = np.stack([where.x, where.y, where.x, where.y], -1)
    boxes = centre + sides * np.array([-1, -1, 1, 1])
    boxes = boxes.clip(0, np.array([size[1], size[0], size[1], size[0]]))
    found = []
    for image in range(len(scores)):
        order = np.argsort(-scores[image], kind="stable")[:_CANDIDATES]
        order = order[scores[image, order] > _FAINTEST]
        order = order[suppress(boxes[image, order], labels[image, order])][:_KEPT]
        shapes = np.zeros((len(order), 0, 0), bool)
        if masks:
            shapes = _masks(prototypes[image], coefficients[image, order], boxes[image, order], size)
        found.append(Objects(boxes[image, order], labels[image, order], scores[image, order], shapes))
    return found


def suppress(boxes: np.ndarray, labels: np.ndarray, threshold: float = _SAME) -> np.ndarray:
    """Indices of boxes, in their order, that overlap none of the same class before them by more than the threshold."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    extent = (np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clip(0)
    shared = extent.prod(-1)
    overlap = shared / np.maximum(area[:, None] + area[None] - shared, 1e-9)
    kept: list[int] = []
    for i in range(len(boxes)):
        if all(labels[i] != labels[j] or overlap[i, j] <= threshold for j in kept):
            kept.append(i)
    return np.array(kept, int)


class Precision:
    """Average precision of boxes and masks by pycocotools; pictures come in parts, and only outlines are kept of them.

    Args:
      classes: names of the classes.
      size: height and width of the pictures.
      masks: whether masks are scored, too.
    """

    def __init__(self, classes: Sequence[str], size: tuple[int, int], *, masks: bool):
        self.classes, self.size, self.masks = classes, size, masks
        self.pictures = 0
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, found: Sequence[Objects], scenes: Scenes) -> None:
        """What was found in further pictures, and what is there."""
        for image, objects in enumerate(found, self.pictures):
            for box, label, score, mask in zip(*objects, strict=True):
                self._found.append({**self._object(image, box, label, mask), "score": float(score)})
        for image, parts in enumerate(zip(scenes.boxes, scenes.labels, scenes.instances, strict=True), self.pictures):
            boxes, labels, instances = parts
            for number in np.flatnonzero(labels >= 0):
                mask = instances == number + 1
                entry = self._object(image, boxes[number], labels[number], mask)
                area = mask.sum() if self.masks else entry["bbox"][2] * entry["bbox"][3]
                self._truth.append({**entry, "id": len(self._truth) + 1, "area": float(area), "iscrowd": 0})
        self.pictures += len(found)

    def figures(self) -> dict[str, float]:
        """``box_ap`` over IoU from 0.5 to 0.95, ``box_ap50`` at 0.5, and the same for ``mask``, in percent.

        Raises:
          UserError: there is no object in any picture.
        """
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._truth:
            raise UserError("the test pictures hold no object, so nothing can be scored.")
        height, width = self.size
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": i, "height": height, "width": width} for i in range(self.pictures)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.classes)],
            "annotations": self._truth,
        }
        told = dict.fromkeys(("box_ap", "box_ap50", *(("mask_ap", "mask_ap50") if self.masks else ())), 0.0)
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
            truth.createIndex()
            for kind, name in (("bbox", "box"), ("segm", "mask")):
                if f"{name}_ap" in told and self._found:
                    precision = COCOeval(truth, truth.loadRes(self._found), kind)
                    precision.evaluate()
                    precision.accumulate()
                    precision.summarize()
                    told[f"{name}_ap"], told[f"{name}_ap50"] = (100 * float(value) for value in precision.stats[:2])
        return told

    def _object(self, image: int, box: np.ndarray, label: int, mask: np.ndarray) -> dict[str, Any]:
        left, top, right, bottom = (float(side) for side in box)
        told = {"image_id": image, "category_id": int(label), "bbox": [left, top, right - left, bottom - top]}
        return {**told, "segmentation": _encoded(mask)} if self.masks else told


def _encoded(mask: np.ndarray) -> Any:
    from pycocotools import mask as coding

    return coding.encode(np.asfortranarray(mask.astype(np.uint8)))


def _masks(prototypes: np.ndarray, coefficients: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The sums of prototypes, enlarged to the image, where they are above one half and inside their box."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    masks = np.zeros((len(boxes), height, width), bool)
    for i, (weights, box) in enumerate(zip(coefficients, boxes, strict=True)):
        logits = Image.fromarray((prototypes @ weights).astype(np.float32))
        enlarged = np.asarray(logits.resize((width, height), Image.Resampling.BILINEAR))
        inside = (x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])
        masks[i] = (enlarged > 0) & inside
    return masks


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))
