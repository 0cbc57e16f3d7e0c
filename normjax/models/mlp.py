"""A multilayer perceptron with a norm before each activation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.linen.weight_norm_factory import WeightNormFactory, plain
from normjax.models.common import HEAD, NormFactory, at_least_float32, normalized, wrapped


class MLP(nn.Module):
    """Hidden dense layers, each normalised, then relu.

    Attributes:
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      widths: units of each hidden layer.
      dtype: type of the computation; parameters and logits are float32.
      weight_norm: wrapper of the hidden layers, as ``normjax.make_weight_norm`` gives it.
    """

    num_classes: int
    norm: NormFactory
    widths: tuple[int, ...] = (256, 256)
    dtype: Any = jnp.float32
    weight_norm: WeightNormFactory = plain

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits (batch, num_classes) of images (batch, height, width, channels)."""
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        # The norm's own bias makes one before it redundant.
        dense = wrapped(self.weight_norm, nn.Dense, use_bias=False, dtype=self.dtype)
        for i, width in enumerate(self.widths):
            x = dense(width, name=f"dense{i}")(x)
            x = nn.relu(normalized(norm(name=f"norm{i}"), x, mask))
        return nn.Dense(self.num_classes, name=HEAD)(at_least_float32(x))
