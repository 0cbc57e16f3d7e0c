"""What the networks share."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

from normjax.functional import conv_general_dilated
from normjax.linen.weight_norm_factory import WeightNormFactory

NormFactory = Callable[..., nn.Module]
HEAD = "head"  # the last layer of every network, which no weight norm wraps
Conv = partial(nn.Conv, conv_general_dilated=conv_general_dilated)


def wrapped(weight_norm: WeightNormFactory, layer: Callable[..., nn.Module], **fields: Any) -> Callable[..., nn.Module]:
    """A factory of layers that share fields, each wrapped."""
    return lambda *args, **more: weight_norm(layer(*args, **fields, **more))


# He et al. (2015): keeps the variance of the gradient through convolutions followed by relu.
he_normal_out = initializers.variance_scaling(2.0, "fan_out", "normal")


def mask_like(mask: jax.Array | None, x: jax.Array) -> jax.Array | None:
    """A mask of examples, (batch,), with as many dimensions as ``x``."""
    return None if mask is None else mask.reshape((-1,) + (1,) * (x.ndim - 1))


def normalized(norm: nn.Module, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Applies a layer made by a norm factory to activations of masked examples."""
    return norm(x, mask=mask_like(mask, x))


def at_least_float32(x: jax.Array) -> jax.Array:
    """Features as the classifier takes them, whatever type the layers before compute in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
