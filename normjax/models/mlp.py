"""A multilayer perceptron with a norm before each activation."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.models.common import NormFactory, at_least_float32, normalized


class MLP(nn.Module):
    """Hidden dense layers, each normalised, then relu.

    Attributes:
      num_classes: outputs.
      norm: factory of the norm, as ``normjax.make_norm`` gives it.
      widths: units of each hidden layer.
      dtype: type of the computation; parameters and logits are float32.
    """

    num_classes: int
    norm: NormFactory
    widths: tuple[int, ...] = (256, 256)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, mask: jax.Array | None = None) -> jax.Array:
        """Logits (batch, num_classes) of images (batch, height, width, channels)."""
        norm = partial(self.norm, use_running_average=not train, dtype=self.dtype)
        x = x.reshape(x.shape[0], -1).astype(self.dtype)
        for i, width in enumerate(self.widths):
            # The norm's own bias makes one before it redundant.
            x = nn.Dense(width, use_bias=False, dtype=self.dtype, name=f"dense{i}")(x)
            x = nn.relu(normalized(norm(name=f"norm{i}"), x, mask))
        return nn.Dense(self.num_classes, name="head")(at_least_float32(x))
