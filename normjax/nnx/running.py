"""What the NNX layers share: affine parameters, and training and inference of those with running statistics."""

from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.linen.dtypes import canonicalize_dtype
from flax.typing import Dtype, Initializer
from jax.nn import initializers

from normjax.functional.moments import canonical_axes
from normjax.functional.rules import Affine, RunningRule


class AffineNorm(nnx.Module):
    """Scale and bias of a norm of ``num_features`` features."""

    def __init__(
        self,
        num_features: int,
        *,
        dtype: Dtype | None = None,
        param_dtype: Dtype = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = initializers.zeros,
        scale_init: Initializer = initializers.ones,
        bias_metadata: Mapping[str, Any] = MappingProxyType({}),
        scale_metadata: Mapping[str, Any] = MappingProxyType({}),
        rngs: nnx.Rngs,
    ):
        self.num_features = num_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.scale: nnx.Param | None = nnx.data(None)
        self.bias: nnx.Param | None = nnx.data(None)
        if use_scale:
            self.scale = nnx.Param(scale_init(rngs.params(), (num_features,), param_dtype), **scale_metadata)
        if use_bias:
            self.bias = nnx.Param(bias_init(rngs.params(), (num_features,), param_dtype), **bias_metadata)

    def take(self, x: Any, axis: int = -1) -> tuple[jax.Array, Affine]:
        """The input as an inexact array, and the affine parameters that go with it."""
        x = jnp.asarray(x)
        (axis,) = canonical_axes(x.ndim, axis)
        if x.shape[axis] != self.num_features:
            raise ValueError(
                f"input of shape {x.shape} has {x.shape[axis]} features along axis {axis}; "
                f"this layer was made with num_features={self.num_features}."
            )
        scale, bias = (None if parameter is None else parameter[...] for parameter in (self.scale, self.bias))
        given = [array for array in (x, scale, bias) if array is not None]
        affine = Affine(scale, bias, canonicalize_dtype(*given, dtype=self.dtype))
        return (x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)), affine


class RunningNorm(AffineNorm):
    """Normalises by the batch in training and by running statistics at inference, as its rule says.

    ``train()`` and ``eval()`` switch between the two, as for ``flax.nnx.BatchNorm``; the statistics are
    ``nnx.BatchStat`` variables.

    Args:
      num_features: features of the input.
      use_running_average: normalise by the running statistics (inference) instead of the batch.
      axis: the feature axis of the input.
      momentum: share of the old value in the running statistics.
      epsilon: added to the variance.
      axis_name: the mapped axis (pmap, shard_map) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      **affine: ``dtype``, ``param_dtype``, ``use_bias``, ``use_scale``, ``bias_init``, ``scale_init``,
        ``bias_metadata``, ``scale_metadata`` and ``rngs``, as ``flax.nnx.BatchNorm`` has them.
    """

    rule_type: ClassVar[type[RunningRule]]

    def __init__(
        self,
        num_features: int,
        *,
        use_running_average: bool | None = False,
        axis: int = -1,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        axis_name: str | None = None,
        axis_index_groups: Any = None,
        **affine: Any,
    ):
        if not hasattr(axis, "__index__"):
            raise ValueError(f"axis={axis!r} is not known; the layers of NNX take one feature axis.")
        super().__init__(num_features, **affine)
        self.use_running_average = use_running_average
        self.axis = axis
        self.momentum = momentum
        self.epsilon = epsilon
        self.axis_name = axis_name
        self.axis_index_groups = nnx.static(axis_index_groups)
        for name, value in self.rule.initial((num_features,), jnp.float32).items():
            setattr(self, name, nnx.BatchStat(value))

    @property
    def rule(self) -> RunningRule:
        """What the layer does with its statistics."""
        return self.rule_type(**{field.name: getattr(self, field.name) for field in fields(self.rule_type)})

    def __call__(self, x: Any, use_running_average: bool | None = None, *, mask: Any = None) -> jax.Array:
        """Normalises ``x``.

        Args:
          x: activations, features along ``axis``.
          use_running_average: wins over the attribute.
          mask: broadcastable to ``x``, True where a value counts for the statistics.

        Returns:
          The normalised activations, shape of ``x``.

        Raises:
          ValueError: the features are not ``num_features``.
        """
        infer = self.use_running_average if use_running_average is None else use_running_average
        if infer is None:
            raise ValueError(
                "use_running_average=None; give True or False to the layer or its call, or call train() or eval()."
            )
        x, affine = self.take(x, self.axis)
        rule = self.rule
        state = {name: getattr(self, name)[...] for name in rule.names}
        if infer:
            return rule.infer(x, state, affine)
        y, batch = rule.train(x, state, affine, None if mask is None else jnp.asarray(mask, bool))
        for name, value in rule.update(state, batch).items():
            getattr(self, name)[...] = jax.lax.stop_gradient(value)
        return y

    def set_view(self, use_running_average: bool | None = None) -> None:
        """What ``nnx.view`` calls."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
