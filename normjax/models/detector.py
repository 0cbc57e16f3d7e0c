"""A small anchor-free detector with a mask head, on the stages of the convolutional network."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from normjax.linen.weight_norm_factory import WeightNormFactory, plain
from normjax.models.common import Conv, NormFactory, at_least_float32, he_normal_out
from normjax.models.convnet import conv_stages

_GROUPS = 8  # of the group norms in neck and heads, which are trained from nothing
_RARE = -np.log(99.0)  # logit of a probability of 0.01: nearly all locations hold nothing


class Detections(NamedTuple):
    """What the detector says at each location of its two levels, all levels in a row."""

    classes: jax.Array  # logits (batch, locations, classes)
    sides: jax.Array  # distances to left, top, right, bottom of the box in pixels, (batch, locations, 4)
    centres: jax.Array  # logits of the centre-ness, (batch, locations)
    coefficients: jax.Array  # of the prototypes that make up the mask, (batch, locations, prototypes)
    prototypes: jax.Array  # (batch, height / 2, width / 2, prototypes)


class Locations(NamedTuple):
    """Where the detector looks."""

    x: np.ndarray  # pixels, (locations,)
    y: np.ndarray
    stride: np.ndarray  # pixels between neighbours of the level


class Backbone(nn.Module):
    """The stages of ``ConvNet`` under the same names, with statistics as they are."""

    norm: NormFactory
    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain

    @nn.compact
    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Activations of each stage."""
        norm = partial(self.norm, use_running_average=True, dtype=self.dtype)
        return conv_stages(x.astype(self.dtype), norm, self.widths, self.dtype, weight_norm=self.weight_norm)


class Detector(nn.Module):
    """Class, box, centre-ness and mask at each location of two levels.

    The last stage of the backbone is the fine level (stride 4 with three stages), a convolution with stride 2 makes
    the coarse one. A mask is a sum of prototypes, weighted at the location. The norms of the backbone take their
    statistics as they are, as is the custom in detection, where batches are small.

    Attributes:
      num_classes: kinds of objects.
      norm: factory of the norms of the backbone, as ``normjax.make_norm`` gives it.
      widths: channels of the stages of the backbone, two or more.
      features: channels of neck and heads, a multiple of 8.
      prototypes: of the masks.
      dtype: type of the computation.
      weight_norm: wrapper of the convolutions of the backbone, as ``normjax.make_weight_norm`` gives it.

    References:
      Tian, Shen, Chen, He, `FCOS: Fully Convolutional One-Stage Object Detection <https://arxiv.org/abs/1904.01355>`_,
      2019 (locations, centre-ness).
      Bolya, Zhou, Xiao, Lee, `YOLACT: Real-time Instance Segmentation <https://arxiv.org/abs/1904.02689>`_, 2019
      (prototypes).
    """

    num_classes: int
    norm: NormFactory
    widths: tuple[int, ...] = (16, 32, 64)
    features: int = 64
    prototypes: int = 8
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain

    @nn.compact
    def __call__(self, x: jax.Array) -> Detections:
        """What is said of images (batch, height, width, channels)."""
        *_, half, fine = Backbone(self.norm, self.widths, self.dtype, self.weight_norm, name="backbone")(x)
        fine = self._block("neck_fine")(fine)
        levels = [fine, self._block("neck_coarse", strides=2)(fine)]
        towers = {what: [self._block(f"{what}_{i}") for i in range(2)] for what in ("class", "box")}
        heads = {
            "class": self._head(self.num_classes, "class_head", bias=_RARE),
            "sides": self._head(4, "box_head"),
            "centre": self._head(1, "centre_head"),
            "mask": self._head(self.prototypes, "mask_head"),
        }
        said: dict[str, list[jax.Array]] = {name: [] for name in heads}
        for i, level in enumerate(levels):
            classes, boxes = level, level
            for a, b in zip(towers["class"], towers["box"], strict=True):
                classes, boxes = a(classes), b(boxes)
            # Distances grow with the stride of the level.
            stride = x.shape[1] // level.shape[1]
            sides = stride * jnp.exp(heads["sides"](boxes).clip(-6, 6) + self.param(f"scale{i}", nn.zeros, ()))
            each = (heads["class"](classes), sides, heads["centre"](boxes), heads["mask"](boxes))
            for name, value in zip(heads, each, strict=True):
                said[name].append(value.reshape(len(x), -1, value.shape[-1]))
        classes, sides, centres, coefficients = (
            at_least_float32(jnp.concatenate(values, 1)) for values in said.values()
        )
        up = jax.image.resize(fine, (*half.shape[:3], fine.shape[-1]), "bilinear")
        prototypes = self._head(self.prototypes, "prototypes")(
            self._block("prototype")(jnp.concatenate([half, up], -1))
        )
        return Detections(classes, sides, centres[..., 0], coefficients, at_least_float32(prototypes))

    def _block(self, name: str, strides: int = 1) -> Any:
        return nn.Sequential(
            [
                Conv(self.features, (3, 3), strides, use_bias=False, dtype=self.dtype, kernel_init=he_normal_out),
                nn.GroupNorm(_GROUPS, dtype=self.dtype),
                nn.relu,
            ],
            name=name,
        )

    def _head(self, channels: int, name: str, bias: float = 0.0) -> nn.Module:
        small = nn.initializers.normal(0.01)
        return Conv(
            channels, (3, 3), dtype=self.dtype, kernel_init=small, bias_init=nn.initializers.constant(bias), name=name
        )


def locations(size: tuple[int, int], stages: int = 3) -> Locations:
    """The locations of a detector in the order of its outputs.

    Args:
      size: height and width of the images, multiples of the coarse stride.
      stages: of the backbone.

    Example:
      >>> locations((16, 16)).stride.tolist()
      [4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8]
    """
    parts = []
    for stride in (2 ** (stages - 1), 2**stages):
        if size[0] % stride or size[1] % stride:
            raise ValueError(f"images of {size[0]}x{size[1]} do not fit the stride {stride}; use multiples of it.")
        y, x = (stride * (np.mgrid[: size[0] // stride, : size[1] // stride] + 0.5)).astype(np.float32)
        parts.append((x.ravel(), y.ravel(), np.full(x.size, stride)))
    return Locations(*(np.concatenate(part) for part in zip(*parts, strict=True)))
