"""Decorrelated layer normalization as a Linen module."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from normjax.functional.decorrelated_layer_norm import Mode, decorrelated_layer_norm
from normjax.functional.whitening import Method
from normjax.linen.affine import take


class DecorrelatedLayerNorm(nn.Module):
    """Layer norm, then whitening of the channels inside each sample; no state, and no other sample matters.

    Formula: ``normjax.functional.decorrelated_layer_norm``. Use it for very small batches; mode
    ``group`` where a sample has few positions (dense layers have one).

    Attributes:
      group_size: side of the whitening matrices; None is all channels.
      mode: ``channel`` (channels of a group over positions) or ``group`` (groups over channels and positions).
      method: ``newton`` or ``eigh`` (ZCA).
      iterations: of Newton.
      epsilon: added to variances.
      shrink: share of a multiple of the identity in the covariance.
      layer_norm: whether layer norm comes first.
      renormalize: whether the output of each sample is brought to unit mean square.
      tpu_kernel: whether TPUs run one Pallas kernel each way (for 128 to 1,024 channels; derivatives in reverse only).
      dtype: type of the result (default: from input and parameters).
      param_dtype: type of the parameters.
      use_bias: whether beta is added.
      use_scale: whether to multiply by gamma.
      bias_init: initializer of beta.
      scale_init: initializer of gamma.

    Example:
      >>> layer = DecorrelatedLayerNorm(group_size=2, mode="group")
      >>> x = jnp.arange(8.0).reshape(1, 8) ** 2
      >>> print(layer.apply(layer.init(jax.random.key(0), x), x).shape)
      (1, 8)

    References:
      Yuan, `Research and application of structure normalization for deep networks`, thesis, Jiangsu University, 2022.
    """

    group_size: int | None = 16
    mode: Mode = "channel"
    method: Method = "newton"
    iterations: int = 5
    epsilon: float = 1e-5
    shrink: float = 0.0
    layer_norm: bool = True
    renormalize: bool = True
    tpu_kernel: bool = False
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises each sample of ``x``, channels along the last axis."""
        x = jnp.asarray(x)
        x, affine = take(self, x, x.shape[-1:])
        return decorrelated_layer_norm(
            x,
            affine.scale,
            affine.bias,
            group_size=self.group_size,
            mode=self.mode,
            method=self.method,
            iterations=self.iterations,
            epsilon=self.epsilon,
            shrink=self.shrink,
            layer_norm=self.layer_norm,
            renormalize=self.renormalize,
            tpu_kernel=self.tpu_kernel,
            dtype=affine.dtype,
        )
