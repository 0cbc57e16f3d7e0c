"""The layers with running statistics as NNX modules; formulas and options are those of their Linen twins."""

from typing import Any

from normjax.functional.rules import (
    BatchNormRule,
    BatchRenormRule,
    DecorrelatedBatchNormRule,
    GhostBatchNormRule,
)
from normjax.functional.whitening import Method
from normjax.nnx.running import RunningNorm


class BatchNorm(RunningNorm):
    """Batch normalization; see ``normjax.functional.batch_norm``, and ``RunningNorm`` for the other arguments.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = BatchNorm(2, momentum=0.9, rngs=nnx.Rngs(0))
      >>> y = layer(jnp.array([[0.0, 5.0], [20.0, 15.0]]))
      >>> print(layer.mean[...])
      [1. 1.]
    """

    rule_type = BatchNormRule

    def __init__(
        self, num_features: int, *, use_fast_variance: bool = True, unbiased_running_var: bool = False, **common: Any
    ):
        self.use_fast_variance = use_fast_variance
        self.unbiased_running_var = unbiased_running_var
        super().__init__(num_features, **common)


class GhostBatchNorm(BatchNorm):
    """Ghost batch normalization; see ``normjax.functional.ghost_batch_norm``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = GhostBatchNorm(1, ghost_batch_size=2, rngs=nnx.Rngs(0))
      >>> print(layer(jnp.array([[1.0], [3.0], [5.0], [9.0]])).ravel().round(3))
      [-1.  1. -1.  1.]
    """

    rule_type = GhostBatchNormRule

    def __init__(self, num_features: int, *, ghost_batch_size: int = 32, **common: Any):
        self.ghost_batch_size = ghost_batch_size
        super().__init__(num_features, **common)


class BatchRenorm(RunningNorm):
    """Batch renormalization; see ``normjax.functional.batch_renorm``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = BatchRenorm(1, warmup_steps=0, r_steps=0, d_steps=0, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[1.0], [3.0]])  # what the initial statistics, 0 and 1, leave as it is
      >>> print(jnp.allclose(layer(x), x))
      True
    """

    rule_type = BatchRenormRule

    def __init__(
        self,
        num_features: int,
        *,
        use_fast_variance: bool = True,
        r_max: float = 3.0,
        d_max: float = 5.0,
        warmup_steps: int = 5_000,
        r_steps: int = 40_000,
        d_steps: int = 25_000,
        **common: Any,
    ):
        self.use_fast_variance = use_fast_variance
        self.r_max = r_max
        self.d_max = d_max
        self.warmup_steps = warmup_steps
        self.r_steps = r_steps
        self.d_steps = d_steps
        super().__init__(num_features, **common)


class DecorrelatedBatchNorm(RunningNorm):
    """Decorrelated batch normalization; see ``normjax.functional.decorrelated_batch_norm``.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> layer = DecorrelatedBatchNorm(2, group_size=2, method="eigh", rngs=nnx.Rngs(0))
      >>> y = layer(jnp.array([[2.0, 2.0], [-2.0, -2.0], [1.0, -1.0], [-1.0, 1.0]]))
      >>> print((y.T @ y / 4).round(3))
      [[1. 0.]
       [0. 1.]]
    """

    rule_type = DecorrelatedBatchNormRule

    def __init__(
        self,
        num_features: int,
        *,
        group_size: int | None = 16,
        method: Method = "newton",
        iterations: int = 5,
        **common: Any,
    ):
        self.group_size = group_size
        self.method = method
        self.iterations = iterations
        super().__init__(num_features, **common)
