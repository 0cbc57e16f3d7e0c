"""Batch normalization as a Linen module."""

from typing import Any

import jax.numpy as jnp

from normjax.functional.rules import BatchNormRule
from normjax.linen.running import RunningNorm


class BatchNorm(RunningNorm):
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
      >>> import jax
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

    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased_running_var: bool = False

    rule_type = BatchNormRule

    def statistics_dtype(self) -> Any:
        """Type in which the running statistics are kept."""
        return jnp.float32 if self.force_float32_reductions else self.param_dtype
