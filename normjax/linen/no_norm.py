"""No normalization, where a network asks for a norm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from normjax.functional.affine import affine
from normjax.linen.affine import take


class NoNorm(nn.Module):
    """Normalises nothing: adds the bias that the layers before it leave to the norm.

    Attributes:
      dtype: type of the result (default: from input and parameters).
      param_dtype: type of the parameters.
      use_bias: whether a bias is added.
      use_scale: whether to multiply by a scale.
      bias_init: initializer of the bias.
      scale_init: initializer of the scale.

    Example:
      >>> layer = NoNorm(bias_init=nn.initializers.ones)
      >>> print(layer.apply(layer.init(jax.random.key(0), jnp.zeros((1, 2))), jnp.array([[1.0, 2.0]])))
      [[2. 3.]]
    """

    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = False
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: Any) -> jax.Array:
        """The input plus the bias of each feature, along the last axis."""
        x, parameters = take(self, x, jnp.shape(x)[-1:])
        return affine(x.astype(parameters.dtype), parameters.scale, parameters.bias)
