"""Batch normalization as a Linen module."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype
from flax.typing import Dtype, Initializer

from normjax.functional.batch_norm import RunningStatistics, batch_norm, normalize, update_running_statistics
from normjax.functional.moments import canonical_axes
from normjax.linen.statistics import BATCH_STATS, pool_batch_moments, updates_running_statistics


class BatchNorm(nn.Module):
    """Normalises each feature by the statistics of the batch; a drop-in for ``flax.linen.BatchNorm``.

    Same fields, defaults, collections and call. Formula and derivative: ``normjax.functional.batch_norm``.
    Use it where a batch per device group has some 16 examples or more, drawn alike.

    What differs from Flax, each measured in the tests:

    - devices are weighted by their valid counts, where Flax averages their means;
    - the variance is right for data far from zero (N(1e4, 1) in float32);
    - empty masks, NaN in masked-out padding and constant input give finite values and gradients.

    Attributes:
      use_running_average: normalise by the running statistics (inference) instead of the batch.
      axis: the feature axis or axes of the input.
      momentum: share of the old value in the running statistics.
      epsilon: added to the variance.
      dtype: type of the result (default: from input and parameters).
      param_dtype: type of the parameters.
      use_bias: whether beta is added.
      use_scale: whether to multiply by gamma.
      bias_init: initializer of beta.
      scale_init: initializer of gamma.
      axis_name: the mapped axis (pmap, shard_map) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      use_fast_variance: one shifted pass for the variance (True), or two passes. Both are accurate.
      force_float32_reductions: keep the running statistics in float32 (True) or in ``param_dtype``.
        They are computed in float32 or wider either way.
      unbiased_running_var: average the variance with m/(m-1), as the paper and PyTorch do; off as in Flax.

    Example:
      >>> layer = BatchNorm(use_running_average=False, momentum=0.9)
      >>> x = jnp.array([[0.0, 5.0], [20.0, 15.0]])
      >>> variables = layer.init(jax.random.key(0), x)
      >>> y, updates = layer.apply(variables, x, mutable=["batch_stats"])
      >>> print(updates["batch_stats"]["mean"])
      [1. 1.]

    References:
      Ioffe, Szegedy, `Batch Normalization: Accelerating Deep Network Training by Reducing Internal
      Covariate Shift <https://arxiv.org/abs/1502.03167>`_, 2015.
    """

    use_running_average: bool | None = None
    axis: int = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased_running_var: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises ``x``.

        Args:
          x: activations, features along ``axis``.
          use_running_average: as the field; exactly one of the two is given.
          mask: broadcastable to ``x``, True where a value counts for the statistics.

        Returns:
          The normalised activations, shape of ``x``.

        Raises:
          flax.errors.ModifyScopeVariableError: in training, where ``batch_stats`` is not mutable.
        """
        use_running_average = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        x = jnp.asarray(x)
        mask = None if mask is None else jnp.asarray(mask, bool)
        features = tuple(x.shape[axis] for axis in canonical_axes(x.ndim, self.axis))
        scale = self.param("scale", self.scale_init, features, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, features, self.param_dtype) if self.use_bias else None
        kept = jnp.float32 if self.force_float32_reductions else self.param_dtype
        mean = self.variable(BATCH_STATS, "mean", jnp.zeros, features, kept)
        var = self.variable(BATCH_STATS, "var", jnp.ones, features, kept)

        scale, bias = (None if value is None else jnp.asarray(value) for value in (scale, bias))
        running = RunningStatistics(jnp.asarray(mean.value), jnp.asarray(var.value))
        given = [array for array in (x, scale, bias) if array is not None]
        dtype = canonicalize_dtype(*given, dtype=self.dtype)
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            x = x.astype(jnp.float32)
        if use_running_average:
            return normalize(x, *running, scale, bias, axis=self.axis, epsilon=self.epsilon, dtype=dtype)
        y, batch = batch_norm(
            x,
            scale,
            bias,
            axis=self.axis,
            mask=mask,
            epsilon=self.epsilon,
            axis_name=None if self.is_initializing() else self.axis_name,
            axis_index_groups=self.axis_index_groups,
            use_fast_variance=self.use_fast_variance,
            dtype=dtype,
        )
        batch = pool_batch_moments(self, batch)
        if updates_running_statistics(self):
            mean.value, var.value = update_running_statistics(
                running,
                batch,
                momentum=self.momentum,
                unbiased=self.unbiased_running_var,
            )
        return y
