"""Reference-batch normalization as an NNX module."""

from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from normjax.functional.reference_batch_norm import ReferenceMode
from normjax.functional.rules import ReferenceBatchNormRule
from normjax.nnx.running import AffineNorm


class ReferenceStat(nnx.Variable):
    """Statistics of a reference batch."""


class ReferenceBatchNorm(AffineNorm):
    """Normalises with the statistics of a reference batch; see ``normjax.functional.reference_batch_norm``.

    ``model.set_attributes(collect_reference=True)`` makes of the next call a reference pass, in which each layer
    keeps count, mean, variance and number of examples as ``ReferenceStat`` variables; set it back to False behind
    it. There are no such variables before, so make one pass before a saved state is loaded into a new model.
    ``train()`` and ``eval()`` switch as for the other layers.

    Args:
      num_features: features of the input.
      use_running_average: True at inference.
      collect_reference: whether a call is a reference pass.
      mode: ``virtual`` (each example with the reference), ``mixed`` (the batch with it), ``fixed`` or ``renorm``.
      alpha: share of the reference in ``mixed``, 0 to 1; None counts values.
      r_max: limit of ``renorm`` for the scale.
      d_max: limit of ``renorm`` for the mean, in standard deviations.
      reference_gradient: whether gradients flow into the reference batch, where it is passed in the same step.
      axis: the feature axis of the input.
      epsilon: added to the variance.
      axis_name: the mapped axis (pmap, shard_map) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share those of the batch; the reference
        is that of all devices.
      **affine: as for the other layers.

    Example:
      >>> layer = ReferenceBatchNorm(1, mode="fixed", epsilon=0.0, rngs=nnx.Rngs(0))
      >>> layer.set_attributes(collect_reference=True)
      >>> y = layer(jnp.array([[1.0], [3.0]]))
      >>> layer.set_attributes(collect_reference=False)
      >>> print(layer(jnp.array([[2.0], [5.0]])).ravel())
      [0. 3.]
    """

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        collect_reference: bool = False,
        mode: ReferenceMode = "virtual",
        alpha: float | None = None,
        r_max: float = 3.0,
        d_max: float = 5.0,
        reference_gradient: bool = True,
        axis: int = -1,
        epsilon: float = 1e-5,
        axis_name: str | None = None,
        axis_index_groups: Any = None,
        **affine: Any,
    ):
        if not hasattr(axis, "__index__"):
            raise ValueError(f"axis={axis!r} is not known; the layers of NNX take one feature axis.")
        super().__init__(num_features, **affine)
        self.use_running_average = use_running_average
        self.collect_reference = collect_reference
        self.mode = mode
        self.alpha = alpha
        self.r_max = r_max
        self.d_max = d_max
        self.reference_gradient = reference_gradient
        self.axis = axis
        self.epsilon = epsilon
        self.axis_name = axis_name
        self.axis_index_groups = nnx.static(axis_index_groups)
        self.count: ReferenceStat | None = nnx.data(None)
        self.mean: ReferenceStat | None = nnx.data(None)
        self.var: ReferenceStat | None = nnx.data(None)
        self.examples: ReferenceStat | None = nnx.data(None)
        _ = self.rule  # which refuses options that do not fit

    @property
    def rule(self) -> ReferenceBatchNormRule:
        """What the layer does with its statistics."""
        return ReferenceBatchNormRule(
            **{field.name: getattr(self, field.name) for field in fields(ReferenceBatchNormRule)}
        )

    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        """Normalises ``x``.

        Args:
          x: activations, examples along the first axis, features along ``axis``.
          use_running_average: wins over the attribute.
          mask: broadcastable to ``x``, True where a value counts for the statistics.

        Returns:
          The normalised activations, shape of ``x``.

        Raises:
          ValueError: the features are not ``num_features``, or there are no reference statistics.
        """
        infer = self.use_running_average if use_running_average is None else use_running_average
        if infer is None:
            raise ValueError(
                "use_running_average=None; give True or False to the layer or its call, or call train() or eval()."
            )
        x, affine = self.take(x, self.axis)
        mask = None if mask is None else jnp.asarray(mask, bool)
        rule = self.rule
        if self.collect_reference:
            y, state = rule.take(x, affine, mask)
            for name, value in state.items():
                self._keep(name, value)
            return y
        if self.mean is None:
            raise ValueError(
                "the layer has no reference statistics; take them by model.set_attributes(collect_reference=True), "
                "a call with the reference batch, and model.set_attributes(collect_reference=False)."
            )
        return rule.normalize(x, {name: getattr(self, name)[...] for name in rule.names}, affine, mask, infer=infer)

    def _keep(self, name: str, value: jax.Array) -> None:
        variable = getattr(self, name)
        if variable is None:
            setattr(self, name, ReferenceStat(value))
        else:
            variable[...] = value

    def set_view(self, use_running_average: bool | None = None, collect_reference: bool | None = None) -> None:
        """What ``nnx.view`` calls."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if collect_reference is not None:
            self.collect_reference = collect_reference
