"""Ghost batch normalization as a Linen module."""

from normjax.functional.rules import GhostBatchNormRule
from normjax.linen.running import RunningNorm


class GhostBatchNorm(RunningNorm):
    """Normalises each part of the batch by its own statistics; running statistics take all parts merged.

    Formula: ``normjax.functional.ghost_batch_norm``. Use it to keep the regularising noise of small
    batches in large ones. Devices share their running statistics (``axis_name``), not their parts.

    Attributes:
      ghost_batch_size: examples of each part; must divide the batch of the device.
      use_fast_variance: one shifted pass for the variance (True), or two passes.
      unbiased_running_var: average the variance with m/(m-1).

      The others are those of ``BatchNorm``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> layer = GhostBatchNorm(use_running_average=False, ghost_batch_size=2)
      >>> x = jnp.array([[1.0], [3.0], [5.0], [9.0]])
      >>> y, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
      >>> print(y.ravel().round(3))
      [-1.  1. -1.  1.]

    References:
      Hoffer, Hubara, Soudry, `Train longer, generalize better <https://arxiv.org/abs/1705.08741>`_, 2017.
    """

    ghost_batch_size: int = 32
    use_fast_variance: bool = True
    unbiased_running_var: bool = False

    rule_type = GhostBatchNormRule
