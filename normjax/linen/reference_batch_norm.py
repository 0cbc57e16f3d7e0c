"""Reference-batch normalization as a Linen module."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from normjax.functional.moments import canonical_axes
from normjax.functional.reference_batch_norm import ReferenceMode
from normjax.functional.rules import ReferenceBatchNormRule
from normjax.linen.affine import take
from normjax.linen.statistics import REFERENCE_STATS, collects_moments, pool_batch_moments, takes_reference


class ReferenceBatchNorm(nn.Module):
    """Normalises with the help of the statistics of one fixed batch, the reference.

    Formula: ``normjax.functional.reference_batch_norm``. Use it where batches are not drawn alike: few classes
    a batch, sorted or drifting data.

    ``normjax.reference_pass(model, variables, batch)`` takes the statistics: every layer normalises the
    reference batch by itself and keeps count, mean, variance and number of examples in the collection
    ``reference_stats`` (a layer called several times keeps those of its last call). ``init`` takes none and
    normalises by what it is given.
    At inference, the output for an example depends on no other: ``virtual`` does as in training, the other
    modes normalise by the reference alone.

    Attributes:
      mode: ``virtual`` (each example with the reference), ``mixed`` (the batch with it), ``fixed`` or ``renorm``.
      alpha: share of the reference in ``mixed``, 0 to 1; None counts values.
      r_max: limit of ``renorm`` for the scale.
      d_max: limit of ``renorm`` for the mean, in standard deviations.
      reference_gradient: whether gradients flow into the reference batch, where it is passed in the same step.
      axis_index_groups: of the batch; the reference is always that of all devices.

      The others are those of ``BatchNorm``.

    Example:
      >>> from normjax.inference import reference_pass
      >>> layer = ReferenceBatchNorm(mode="fixed", epsilon=0.0)
      >>> reference = jnp.array([[1.0], [3.0]])
      >>> variables = layer.init(jax.random.key(0), reference, use_running_average=False)
      >>> variables = reference_pass(layer, variables, reference, use_running_average=False)
      >>> print(layer.apply(variables, jnp.array([[2.0], [5.0]]), use_running_average=False).ravel())
      [0. 3.]

    References:
      Luo, Li, Zuo, `Improved batch normalization algorithm for deep learning`, Computer Systems &
      Applications 29(4):187-194, 2020 (the idea; the modes are our reconstruction).
    """

    use_running_average: bool | None = None
    axis: int = -1
    epsilon: float = 1e-5
    dtype: Dtype | None = None
    param_dtype: Dtype = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | None = None
    axis_index_groups: Any = None
    mode: ReferenceMode = "virtual"
    alpha: float | None = None
    r_max: float = 3.0
    d_max: float = 5.0
    reference_gradient: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, use_running_average: bool | None = None, *, mask: jax.Array | None = None
    ) -> jax.Array:
        """Normalises ``x``.

        Args:
          x: activations, examples along the first axis, features along ``axis``.
          use_running_average: True at inference; as the field, and exactly one of the two is given.
          mask: broadcastable to ``x``, True where a value counts for the statistics.

        Returns:
          The normalised activations, shape of ``x``.

        Raises:
          ValueError: there are no reference statistics, or they have other features, or ``reference_stats``
            and ``batch_stats`` are both mutable.
        """
        infer = nn.merge_param("use_running_average", self.use_running_average, use_running_average)
        x = jnp.asarray(x)
        mask = None if mask is None else jnp.asarray(mask, bool)
        features = tuple(x.shape[axis] for axis in canonical_axes(x.ndim, self.axis))
        x, affine = take(self, x, features)
        rule = ReferenceBatchNormRule(
            **{field.name: getattr(self, field.name) for field in fields(ReferenceBatchNormRule)}
        )
        if self.is_initializing():
            return rule.initialize(x, affine, mask)
        known = self.get_variable(REFERENCE_STATS, "mean") if self.has_variable(REFERENCE_STATS, "mean") else None
        if known is not None and jnp.shape(known) != features:
            raise ValueError(f"the reference has features of shape {jnp.shape(known)}, and the input has {features}.")
        if takes_reference(self):
            y, state = rule.take(x, affine, mask)
            for name, value in state.items():
                self.put_variable(REFERENCE_STATS, name, value)
            return y
        if known is None:
            raise ValueError(
                f"layer {'/'.join(self.path) or type(self).__name__} has no reference statistics; take them by "
                "variables = normjax.reference_pass(model, variables, batch), and name 'reference_stats' where "
                "'batch_stats' is named in lifted transformations."
            )
        if collects_moments(self) and not infer:
            pool_batch_moments(self, rule.batch_moments(x, mask))
        state = {name: jnp.asarray(self.get_variable(REFERENCE_STATS, name)) for name in rule.names}
        return rule.normalize(x, state, affine, mask, infer=infer)
