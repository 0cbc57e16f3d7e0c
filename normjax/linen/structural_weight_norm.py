"""Structural weight normalization as a Linen module that wraps a layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from normjax.functional.sparsity import SparsityRule
from normjax.functional.structural_weight_norm import (
    STRUCTURE,
    Axis,
    Base,
    Measure,
    as_flax,
    neuron_scales,
    starting_scale,
    structural_weight_norm,
)
from normjax.functional.whitening import Method

WRAPPED = (nn.Dense, nn.Conv, nn.ConvTranspose)


class StructuralWeightNorm(nn.Module):
    """Wraps a Dense, Conv or ConvTranspose, whose kernel it normalises before the layer takes it.

    Formula: ``normjax.functional.structural_weight_norm``. It wraps as ``flax.linen.WeightNorm`` does: the layer's own
    parameters stay where they are, and ``scale`` is added. Use ``measure="sparsity"`` to train a sparse network,
    ``measure="neuron"`` to train with fewer steps, and the orthogonal base where no norm of activations is wanted.

    ``normjax.initialize_from_batch`` sets scale and bias by the data before training, ``normjax.materialize`` writes
    the kernels back as plain ones after it.

    Attributes:
      layer_instance: the layer.
      measure: ``sparsity``, ``neuron`` or None; it and the fields up to ``max_scale`` are options of the function.
      use_scale: whether each output has a scale that is learned.
      initial_scale: where it starts; None is 1 without a base, and the square root of 2 with one, which keeps the
        variance of activations through relu.
      param_dtype: type of the scale.

    Example:
      >>> layer = StructuralWeightNorm(nn.Dense(4, use_bias=False), group_size=4)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 8)))
      >>> kernel = layer.apply(variables, jnp.eye(8))
      >>> print(jnp.linalg.norm(kernel, axis=0).round(4))
      [1.4142 1.4142 1.4142 1.4142]

    References:
      Yuan, Shen, Mehta, Li, Ge, Zha, `Structure injected weight normalization for training deep networks
      <https://doi.org/10.1007/s00530-021-00793-7>`_, 2021 (the idea; the whole is our reconstruction).
    """

    layer_instance: nn.Module
    measure: Measure | None = None
    base: Base = "orthogonal"
    strength: float | None = None
    axis: Axis = "input"
    group_size: int | None = None
    center: bool = True
    method: Method = "newton"
    iterations: int = 20
    rule: SparsityRule = "exact"
    min_scale: float = 0.1
    max_scale: float = 10.0
    use_scale: bool = True
    initial_scale: float | None = None
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """What the layer gives with its normalised kernel.

        Args:
          *args: of the layer.
          **kwargs: of the layer.

        Raises:
          ValueError: the module wraps something else than a Dense, Conv or ConvTranspose, or an option does not suit
            the kernel.
        """
        if not isinstance(self.layer_instance, WRAPPED):
            raise ValueError(
                f"{type(self).__name__} wraps a Dense, Conv or ConvTranspose, and layer_instance is a "
                f"{type(self.layer_instance).__name__}."
            )
        if self.is_initializing():
            # Flax would keep what comes out of the mapping; so the layer starts as it does without a wrapper.
            self.layer_instance(*args, **kwargs)
        normalized = nn.map_variables(lambda layer: layer(*args, **kwargs), "params", self._normalize)
        return normalized(self.layer_instance)

    def _normalize(self, variables: Any) -> Any:
        params = variables["params"]
        kernel = nn.meta.unbox(params["kernel"])
        outputs = as_flax(kernel, self.layer_instance).shape[-1]
        scale, start = None, starting_scale(self.base, self.use_scale, self.initial_scale)
        if start is not None:
            scale = self.param("scale", nn.initializers.constant(start), (outputs,), self.param_dtype)
        kernel = nn.meta.replace_boxed(params["kernel"], self.normalized_kernel(kernel, scale))
        return {**variables, "params": {**params, "kernel": kernel}}

    def normalized_kernel(self, kernel: jax.Array, scale: jax.Array | None) -> jax.Array:
        """The kernel that the layer takes, made of the one it stores."""
        kernel = as_flax(kernel, self.layer_instance)
        scale = None if scale is None else jnp.asarray(scale)
        return as_flax(structural_weight_norm(kernel, scale, **self._structure()), self.layer_instance)

    def neuron_scales(self, kernel: jax.Array) -> jax.Array:
        """The scale of each unit by ``measure="neuron"``, given the kernel that is stored."""
        assert self.measure == "neuron"
        return neuron_scales(as_flax(kernel, self.layer_instance), **self._structure())

    def _structure(self) -> dict[str, Any]:
        groups = getattr(self.layer_instance, "feature_group_count", 1)
        return {**{name: getattr(self, name) for name in STRUCTURE}, "feature_group_count": groups}
