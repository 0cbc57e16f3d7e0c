"""What each location of a detector should say, and how far off it is."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from normjax.models.detector import Detections, Locations

_RADIUS = 1.5  # strides around the centre of an object where locations are responsible for it
_MASK_LOCATIONS = 4  # of each object, that learn its mask


class Targets(NamedTuple):
    """For each location the object that it is responsible for."""

    owner: jax.Array  # number of the object, -1 for none; (batch, locations)
    label: jax.Array  # class of the object, -1 for none; (batch, locations)
    sides: jax.Array  # distances to left, top, right, bottom in pixels; (batch, locations, 4)
    centre: jax.Array  # centre-ness, 0 to 1; (batch, locations)


class DetectionLosses(NamedTuple):
    """Sums over a batch, and the locations and objects that they are to be divided by."""

    classes: jax.Array
    boxes: jax.Array
    centres: jax.Array
    masks: jax.Array
    locations: jax.Array  # that are responsible for an object
    objects: jax.Array


def assign(boxes: jax.Array, labels: jax.Array, where: Locations) -> Targets:
    r"""Makes locations near the centre of an object responsible for it, on the level of its size.

    The fine level takes objects up to five of its strides, the coarse one larger ones. Where several objects claim a
    location, the smallest has it. The centre-ness is :math:`\sqrt{\frac{\min(l, r)}{\max(l, r)} \cdot
    \frac{\min(t, b)}{\max(t, b)}}`.

    Args:
      boxes: left, top, right, bottom in pixels, (batch, objects, 4).
      labels: class of each object, -1 for none; (batch, objects).
      where: the locations of the detector.
    """
    x, y, stride = (jnp.asarray(part, jnp.float32)[None, :, None] for part in where)
    left, top, right, bottom = (boxes[:, None, :, i] for i in range(4))
    sides = jnp.stack([x - left, y - top, right - x, bottom - y], -1)  # (batch, locations, objects, 4)
    size = jnp.maximum(right - left, bottom - top)
    fine = jnp.min(stride)
    of_level = jnp.where(stride == fine, size <= 5 * fine, size > 5 * fine)
    near = (jnp.abs(x - (left + right) / 2) < _RADIUS * stride) & (jnp.abs(y - (top + bottom) / 2) < _RADIUS * stride)
    claims = (sides.min(-1) > 0) & near & of_level & (labels[:, None] >= 0)
    area = jnp.where(claims, (right - left) * (bottom - top), jnp.inf)
    owner = jnp.where(claims.any(-1), area.argmin(-1), -1)
    own = jnp.maximum(owner, 0)
    mine = jnp.take_along_axis(sides, own[..., None, None], 2)[:, :, 0].clip(1e-3)
    low = jnp.minimum(mine[..., :2], mine[..., 2:]) / jnp.maximum(mine[..., :2], mine[..., 2:])
    label = jnp.where(owner >= 0, jnp.take_along_axis(labels, own, 1), -1)
    return Targets(owner, label, mine, jnp.sqrt(low.prod(-1)))


def detection_losses(
    said: Detections, boxes: jax.Array, labels: jax.Array, instances: jax.Array | None, where: Locations
) -> DetectionLosses:
    r"""Focal loss of the classes, :math:`1 - \mathrm{GIoU}` of the boxes, cross entropy of centre-ness and masks.

    Args:
      said: by the detector.
      boxes: left, top, right, bottom in pixels, (batch, objects, 4).
      labels: class of each object, -1 for none; (batch, objects).
      instances: number of the object of each pixel from 1, 0 for none (batch, height, width); None where masks are
        not known.
      where: the locations of the detector.

    References:
      Lin, Goyal, Girshick, He, Dollar, `Focal Loss for Dense Object Detection
      <https://arxiv.org/abs/1708.02002>`_, 2017.
      Rezatofighi et al., `Generalized Intersection over Union <https://arxiv.org/abs/1902.09630>`_, 2019.
    """
    targets = assign(boxes, labels, where)
    responsible = (targets.owner >= 0).astype(jnp.float32)
    wanted = jax.nn.one_hot(targets.label, said.classes.shape[-1])
    classes = optax.sigmoid_focal_loss(said.classes, wanted, alpha=0.25, gamma=2.0).sum()
    overlap = jnp.where(responsible > 0, 1 - generalized_iou(said.sides, targets.sides), 0)
    centres = optax.sigmoid_binary_cross_entropy(said.centres, targets.centre)
    masks = jnp.zeros(()) if instances is None else _mask_loss(said, targets, boxes, labels, instances)
    return DetectionLosses(
        classes,
        (overlap * targets.centre).sum(),
        jnp.where(responsible > 0, centres, 0).sum(),
        masks,
        responsible.sum(),
        (labels >= 0).sum(dtype=jnp.float32),
    )


def generalized_iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Generalised intersection over union of boxes given by their sides from a common point, (..., 4)."""

    def area(sides: jax.Array) -> jax.Array:
        return (sides[..., 0] + sides[..., 2]) * (sides[..., 1] + sides[..., 3])

    shared, hull = area(jnp.minimum(a, b)), area(jnp.maximum(a, b))
    union = area(a) + area(b) - shared
    return shared / union - (hull - union) / hull


def _mask_loss(
    said: Detections, targets: Targets, boxes: jax.Array, labels: jax.Array, instances: jax.Array
) -> jax.Array:
    """Cross entropy of the pixels inside each box, in the mean over the box, from some locations of the object."""
    batch, height, width, _ = said.prototypes.shape
    objects = labels.shape[1]
    number = jnp.arange(objects)
    # The most central locations of each object, as many as it has.
    centrality = jnp.where(targets.owner[:, None] == number[None, :, None], targets.centre[:, None], -1.0)
    value, chosen = lax.top_k(centrality, _MASK_LOCATIONS)  # (batch, objects, locations)
    flat = chosen.reshape(batch, -1, 1)
    coefficients = jnp.take_along_axis(said.coefficients, flat, 1).reshape(batch, objects, _MASK_LOCATIONS, -1)
    logits = jnp.einsum("bhwk,bolk->bolhw", said.prototypes, coefficients)
    step = instances.shape[1] // height
    # A pixel of the mask stands for the pixels of the image that it covers: their share is the target.
    own = (instances[:, None] == (number + 1)[None, :, None, None]).astype(jnp.float32)
    share = own.reshape(batch, objects, height, step, width, step).mean((3, 5))
    x, y = step * (jnp.arange(width) + 0.5), step * (jnp.arange(height) + 0.5)
    left, top, right, bottom = (boxes[..., i, None] for i in range(4))
    x, y = x[None, None], y[None, None]
    inside_x, inside_y = (x > left - step) & (x < right + step), (y > top - step) & (y < bottom + step)
    inside = (inside_y[..., :, None] & inside_x[..., None, :]).astype(jnp.float32)
    entropy = optax.sigmoid_binary_cross_entropy(logits, share[:, :, None]) * inside[:, :, None]
    mean = entropy.sum((3, 4)) / jnp.maximum(inside.sum((2, 3)), 1)[..., None]
    learns = (value >= 0).astype(jnp.float32)
    each = (mean * learns).sum(2) / jnp.maximum(learns.sum(2), 1)
    return each.sum()
