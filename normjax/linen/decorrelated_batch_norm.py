"""Decorrelated batch normalization as a Linen module."""

from normjax.functional.rules import DecorrelatedBatchNormRule
from normjax.functional.whitening import Method
from normjax.linen.running import RunningNorm


class DecorrelatedBatchNorm(RunningNorm):
    """Whitens each group of channels by the covariance of the batch; running mean and covariance at inference.

    Formula: ``normjax.functional.decorrelated_batch_norm``. Use it where correlated channels slow
    training and the batch has many more positions than a group has channels.

    Attributes:
      group_size: channels that are whitened together; None is all of them.
      method: ``newton`` (iterative normalization) or ``eigh`` (ZCA).
      iterations: of Newton.

      The others are those of ``BatchNorm``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> layer = DecorrelatedBatchNorm(use_running_average=False, group_size=2, method="eigh")
      >>> x = jnp.array([[2.0, 2.0], [-2.0, -2.0], [1.0, -1.0], [-1.0, 1.0]])
      >>> y, updates = layer.apply(layer.init(jax.random.key(0), x), x, mutable=["batch_stats"])
      >>> print((y.T @ y / 4).round(3))
      [[1. 0.]
       [0. 1.]]

    References:
      Huang, Yang, Lang, Deng, `Decorrelated Batch Normalization <https://arxiv.org/abs/1804.08450>`_, 2018.
      Huang, Zhou, Zhu, Liu, Shao, `Iterative Normalization <https://arxiv.org/abs/1904.03441>`_, 2019.
    """

    group_size: int | None = 16
    method: Method = "newton"
    iterations: int = 5

    rule_type = DecorrelatedBatchNormRule
