"""A plain convolutional network in the manner of VGG, with a norm before each activation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.linen.weight_norm_factory import WeightNormFactory, plain
from normjax.models.common import HEAD, Conv, NormFactory, at_least_float32, he_normal_out, normalized, wrapped


def conv_stages(
    x: jax.Array,
    norm: NormFactory,
    widths: tuple[int, ...],
    dtype: Any,
    mask: jax.Array | None = None,
    weight_norm: WeightNormFactory = plain,
    depths: tuple[int, ...] | None = None,
) -> list[jax.Array]:
    """Activations at the end of each stage, before the pooling that leads to the next.

    To be called by a compact method, whose module gets the layers ``conv{stage}_{i}`` and ``norm{stage}_{i}``.

    Args:
      x: images (batch, height, width, channels).
      norm: factory of the norms.
      widths: channels of each stage.
      dtype: type of the computation.
      mask: which examples count, (batch,).
      weight_norm: wrapper of the convolutions.
      depths: convolutions of each stage; None is two.
    """
    fields: Any = {"kernel_size": (3, 3), "use_bias": False, "dtype": dtype, "kernel_init": he_normal_out}
    conv = wrapped(weight_norm, Conv, **fields)
    stages: list[jax.Array] = []
    for stage, (width, depth) in enumerate(zip(widths, depths or (2,) * len(widths), strict=True)):
        x = halved(stages[-1]) if stages else x
        for i in range(depth):
            x = conv(width, name=f"conv{stage}_{i}")(x)
            x = nn.relu(normalized(norm(name=f"norm{stage}_{i}"), x, mask))
        stages.append(x)
    return stages


def halved(x: jax.Array) -> jax.Array:
    """Max-pooling over 2x2, where there are as many positions."""
    return nn.max_pool(x, (2, 2), strides=(2, 2)) if min(x.shape[1:3]) >= 2 else x


class ConvNet(nn.Module):
    """Stages of 3x3 convolutions and a 2x2 max-pooling, then hidden dense layers.

    Attributes:
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      widths: channels of each stage.
      dense: units of each hidden dense layer.
      dtype: type of the computation; parameters and logits are float32.
      weight_norm: wrapper of the hidden layers, as ``normjax.make_weight_norm`` gives it.
      depths: convolutions of each stage; None is two.

    References:
      Simonyan, Zisserman, `Very Deep Convolutional Networks for Large-Scale Image Recognition
      <https://arxiv.org/abs/1409.1556>`_, 2015.
    """

    num_classes: int
    norm: NormFactory
    widths: tuple[int, ...] = (64, 128, 256)
    dense: tuple[int, ...] = (256, 256)
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain
    depths: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits (batch, num_classes) of images (batch, height, width, channels)."""
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x = x.astype(self.dtype)
        if self.widths:
            x = halved(conv_stages(x, norm, self.widths, self.dtype, mask, self.weight_norm, self.depths)[-1])
        x = x.reshape(x.shape[0], -1)
        dense = wrapped(self.weight_norm, nn.Dense, use_bias=False, dtype=self.dtype)
        for i, width in enumerate(self.dense):
            x = dense(width, name=f"dense{i}")(x)
            x = nn.relu(normalized(norm(name=f"dense_norm{i}"), x, mask))
        return nn.Dense(self.num_classes, name=HEAD)(at_least_float32(x))
