"""Objects out of what a detector says, and their average precision by the rules of COCO."""

import contextlib
import io
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from normjax.data.scenes import Scenes
from normjax.models.detector import Detections, Locations

_CANDIDATES, _KEPT, _FAINTEST, _SAME = 100, 20, 0.05, 0.6


class Objects(NamedTuple):
    """What was found in one image, the surest first."""

    boxes: np.ndarray  # left, top, right, bottom in pixels, (objects, 4)
    labels: np.ndarray  # (objects,)
    scores: np.ndarray  # 0 to 1, (objects,)
    masks: np.ndarray  # bool, (objects, height, width)


def find_objects(said: Detections, where: Locations, size: tuple[int, int]) -> list[Objects]:
    """The objects in each image: the surest locations, without those that mean the same object.

    Args:
      said: by the detector.
      where: its locations.
      size: height and width of the images.
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
        masks = _masks(prototypes[image], coefficients[image, order], boxes[image, order], size)
        found.append(Objects(boxes[image, order], labels[image, order], scores[image, order], masks))
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


def average_precision(found: list[Objects], scenes: Scenes, classes: tuple[str, ...]) -> dict[str, float]:
    """Average precision of boxes and masks [%], over IoU from 0.5 to 0.95 and at 0.5, by pycocotools.

    Args:
      found: in each scene.
      scenes: what there is; without masks (``instances`` all 0) only boxes are scored.
      classes: names of the classes.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    height, width = scenes.image.shape[1:3]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "height": height, "width": width} for i in range(len(found))],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes)],
        "annotations": _annotations(scenes),
    }
    told: dict[str, float] = {}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        for kind, name in (("bbox", "box"), ("segm", "mask")):
            if kind == "segm" and not scenes.instances.any():
                continue
            results = _results(found)
            precision = COCOeval(truth, truth.loadRes(results), kind) if results else None
            if precision is not None:
                precision.evaluate()
                precision.accumulate()
                precision.summarize()
            told[f"{name}_ap"] = 0.0 if precision is None else 100 * float(precision.stats[0])
            told[f"{name}_ap50"] = 0.0 if precision is None else 100 * float(precision.stats[1])
    return told


def _annotations(scenes: Scenes) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for image, (boxes, labels, instances) in enumerate(zip(scenes.boxes, scenes.labels, scenes.instances, strict=True)):
        for number, label in enumerate(labels):
            if label < 0:
                continue
            left, top, right, bottom = (float(side) for side in boxes[number])
            mask = instances == number + 1
            entry = {
                "id": len(out) + 1,
                "image_id": image,
                "category_id": int(label),
                "bbox": [left, top, right - left, bottom - top],
                "area": float(mask.sum() or (right - left) * (bottom - top)),
                "iscrowd": 0,
                "segmentation": _encoded(mask),
            }
            out.append(entry)
    return out


def _results(found: list[Objects]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image,
            "category_id": int(label),
            "bbox": [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])],
            "score": float(score),
            "segmentation": _encoded(mask),
        }
        for image, objects in enumerate(found)
        for box, label, score, mask in zip(*objects, strict=True)
    ]


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
