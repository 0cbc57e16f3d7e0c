"""Decorrelated layer normalization as an NNX module."""

from typing import Any

import jax

from normjax.functional.decorrelated_layer_norm import Mode, decorrelated_layer_norm
from normjax.functional.whitening import Method
from normjax.nnx.running import AffineNorm


class DecorrelatedLayerNorm(AffineNorm):
    """Layer norm, then whitening inside each sample; see ``normjax.functional.decorrelated_layer_norm``.

    Args:
      num_features: channels of the input, along its last axis.
      group_size: side of the whitening matrices; None is all channels.
      mode: ``channel`` or ``group``.
      method: ``newton`` or ``eigh`` (ZCA).
      iterations: of Newton.
      epsilon: added to variances.
      shrink: share of a multiple of the identity in the covariance.
      layer_norm: whether layer norm comes first.
      renormalize: whether the output of each sample is brought to unit mean square.
      tpu_kernel: whether TPUs run one Pallas kernel each way (for 128 to 1,024 channels; derivatives in reverse only).
      **affine: as for the other layers.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = DecorrelatedLayerNorm(8, group_size=2, mode="group", rngs=nnx.Rngs(0))
      >>> print(layer(jnp.arange(8.0).reshape(1, 8) ** 2).shape)
      (1, 8)
    """

    def __init__(
        self,
        num_features: int,
        *,
        group_size: int | None = 16,
        mode: Mode = "channel",
        method: Method = "newton",
        iterations: int = 5,
        epsilon: float = 1e-5,
        shrink: float = 0.0,
        layer_norm: bool = True,
        renormalize: bool = True,
        tpu_kernel: bool = False,
        **affine: Any,
    ):
        super().__init__(num_features, **affine)
        self.group_size = group_size
        self.mode = mode
        self.method = method
        self.iterations = iterations
        self.epsilon = epsilon
        self.shrink = shrink
        self.layer_norm = layer_norm
        self.renormalize = renormalize
        self.tpu_kernel = tpu_kernel

    def __call__(self, x: Any) -> jax.Array:
        """Normalises each sample of ``x``, channels along the last axis."""
        x, affine = self.take(x)
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
