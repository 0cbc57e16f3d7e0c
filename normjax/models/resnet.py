"""Residual networks: the thin ones for CIFAR and the bottleneck ones for ImageNet."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import initializers

from normjax.linen.weight_norm_factory import WeightNormFactory, plain
from normjax.models.common import HEAD, Conv, NormFactory, at_least_float32, he_normal_out, normalized, wrapped


class CifarResNet(nn.Module):
    """ResNet-(6n+2) for small images; a block that changes shape pads its shortcut with zeros (option A).

    Attributes:
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      blocks: n, blocks in each of the stages; 3 is ResNet-20, 9 is ResNet-56.
      widths: channels of each stage.
      dtype: type of the computation; parameters and logits are float32.
      weight_norm: wrapper of the convolutions, as ``normjax.make_weight_norm`` gives it.

    References:
      He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, 2016, section 4.2.
    """

    num_classes: int
    norm: NormFactory
    blocks: int = 3
    widths: tuple[int, ...] = (16, 32, 64)
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits (batch, num_classes) of images (batch, height, width, channels)."""
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        fields: Any = {"kernel_size": (3, 3), "use_bias": False, "dtype": self.dtype, "kernel_init": he_normal_out}
        conv = wrapped(self.weight_norm, Conv, **fields)
        x = conv(self.widths[0], name="stem")(x.astype(self.dtype))
        x = nn.relu(normalized(norm(name="stem_norm"), x, mask))
        for stage, width in enumerate(self.widths):
            for i in range(self.blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage}_block{i}"
                y = conv(width, strides=stride, padding=((1, 1), (1, 1)), name=f"{name}_conv0")(x)
                y = nn.relu(normalized(norm(name=f"{name}_norm0"), y, mask))
                y = conv(width, name=f"{name}_conv1")(y)
                y = normalized(norm(name=f"{name}_norm1"), y, mask)
                x = nn.relu(y + _padded_shortcut(x, stride, width))
        x = at_least_float32(x).mean((1, 2))
        return nn.Dense(self.num_classes, kernel_init=initializers.he_normal(), name=HEAD)(x)


class BottleneckResNet(nn.Module):
    """ResNet v1.5: bottleneck blocks with the stride on the 3x3 convolution; 3, 4, 6, 3 blocks are ResNet-50.

    The last scale of each block starts at zero, so that every block starts as the identity (Goyal et al., 2017).

    Attributes:
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      blocks: blocks in each stage.
      widths: inner channels of each stage; a stage puts out four times as many.
      dtype: type of the computation; parameters and logits are float32.
      weight_norm: wrapper of the convolutions, as ``normjax.make_weight_norm`` gives it.

    References:
      He, Zhang, Ren, Sun, `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, 2016.
      Goyal et al., `Accurate, Large Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017.
    """

    num_classes: int
    norm: NormFactory
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits (batch, num_classes) of images (batch, height, width, channels)."""
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        conv = wrapped(self.weight_norm, Conv, use_bias=False, dtype=self.dtype, kernel_init=he_normal_out)
        x = conv(self.widths[0], (7, 7), strides=2, padding=((3, 3), (3, 3)), name="stem")(x.astype(self.dtype))
        x = nn.relu(normalized(norm(name="stem_norm"), x, mask))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks, strict=True)):
            for i in range(blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                name = f"stage{stage}_block{i}"
                y = conv(width, (1, 1), name=f"{name}_conv0")(x)
                y = nn.relu(normalized(norm(name=f"{name}_norm0"), y, mask))
                y = conv(width, (3, 3), strides=stride, padding=((1, 1), (1, 1)), name=f"{name}_conv1")(y)
                y = nn.relu(normalized(norm(name=f"{name}_norm1"), y, mask))
                y = conv(4 * width, (1, 1), name=f"{name}_conv2")(y)
                y = normalized(norm(name=f"{name}_norm2", scale_init=initializers.zeros), y, mask)
                if i == 0:
                    x = conv(4 * width, (1, 1), strides=stride, name=f"{name}_shortcut")(x)
                    x = normalized(norm(name=f"{name}_shortcut_norm"), x, mask)
                x = nn.relu(y + x)
        x = at_least_float32(x).mean((1, 2))
        return nn.Dense(self.num_classes, kernel_init=initializers.normal(0.01), name=HEAD)(x)


def _padded_shortcut(x: jax.Array, stride: int, width: int) -> jax.Array:
    """Every ``stride``-th pixel, with channels of zeros on both sides."""
    x = x[:, ::stride, ::stride]
    missing = width - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing // 2, missing - missing // 2)))
