"""Batch renormalization as a Linen module."""

from normjax.functional.rules import BatchRenormRule
from normjax.linen.running import RunningNorm


class BatchRenorm(RunningNorm):
    """Normalises by the batch, corrected towards the running mean and standard deviation within limits.

    Formula: ``normjax.functional.batch_renorm``; the limits follow ``normjax.functional.renorm_limits``
    by a count of steps in ``batch_stats``. Use it for small batches, or batches that are not drawn alike.

    Attributes:
      use_fast_variance: one shifted pass for the variance (True), or two passes.
      r_max: final limit of the correction of the scale.
      d_max: final limit of the correction of the mean, in standard deviations.
      warmup_steps: steps of plain batch normalization.
      r_steps: step at which ``r_max`` is reached.
      d_steps: step at which ``d_max`` is reached.

      The others are those of ``BatchNorm``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> layer = BatchRenorm(use_running_average=False, warmup_steps=0, r_steps=0, d_steps=0)
      >>> x = jnp.array([[1.0], [3.0]])  # what the initial statistics, 0 and 1, leave as it is
      >>> y, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
      >>> print(jnp.allclose(y, x))
      True

    References:
      Ioffe, `Batch Renormalization <https://arxiv.org/abs/1702.03275>`_, 2017.
    """

    use_fast_variance: bool = True
    r_max: float = 3.0
    d_max: float = 5.0
    warmup_steps: int = 5_000
    r_steps: int = 40_000
    d_steps: int = 25_000

    rule_type = BatchRenormRule
