"""What the Linen layers with running statistics share: parameters, collections, training and inference."""

from dataclasses import fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from normjax.functional.moments import canonical_axes
from normjax.functional.rules import RunningRule
from normjax.linen.affine import take
from normjax.linen.statistics import BATCH_STATS, pool_batch_moments, updates_running_statistics


class RunningNorm(nn.Module):
    """Normalises by the batch in training and by running statistics at inference, as its rule says.

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

    rule_type: ClassVar[type[RunningRule]]

    @property
    def rule(self) -> RunningRule:
        """What the layer does with its statistics."""
        return self.rule_type(**{field.name: getattr(self, field.name) for field in fields(self.rule_type)})

    def statistics_dtype(self) -> Any:
        """Type in which the running statistics are kept."""
        return jnp.float32

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
        x, affine = take(self, x, features)
        rule = self.rule.while_initializing() if self.is_initializing() else self.rule
        initial = rule.initial(features, self.statistics_dtype())
        running = {name: self.variable(BATCH_STATS, name, lambda value=value: value) for name, value in initial.items()}

        state = {name: jnp.asarray(variable.value) for name, variable in running.items()}
        if use_running_average:
            return rule.infer(x, state, affine)
        y, batch = rule.train(x, state, affine, mask)
        batch = pool_batch_moments(self, batch)
        if updates_running_statistics(self):
            for name, value in rule.update(state, batch).items():
                running[name].value = value
        return y
