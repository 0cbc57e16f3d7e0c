"""Structural weight normalization as an NNX module that wraps a layer."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import Dtype

from normjax.functional.affine import affine
from normjax.functional.sparsity import SparsityRule
from normjax.functional.structural_weight_norm import (
    STRUCTURE,
    Axis,
    Base,
    Measure,
    as_flax,
    starting_scale,
    structural_weight_norm,
)
from normjax.functional.weight_norm import mean_and_inverse_deviation
from normjax.functional.whitening import Method

WRAPPED = (nnx.Linear, nnx.Conv, nnx.ConvTranspose)


class StructuralWeightNorm(nnx.Module):
    """Wraps a layer, whose kernel it normalises; see ``normjax.functional.structural_weight_norm``.

    The stored kernel stays as it is. ``model.set_attributes(initialize_from_batch=True)`` makes of the next call a
    data-dependent initialisation, in which each wrapper that has a scale sets it (and the bias of its layer, if any) so
    that the outputs have variance 1 (and mean 0); set it back to False behind it.

    Args:
      layer_instance: a Linear, Conv or ConvTranspose.
      measure: ``sparsity``, ``neuron`` or None; it and those up to ``max_scale`` are options of the function.
      use_scale: whether each output has a scale that is learned.
      initial_scale: where it starts; None is 1 without a base, and the square root of 2 with one.
      param_dtype: type of the scale.
      initialize_from_batch: whether a call sets scale and bias.

    Raises:
      ValueError: an option does not suit the kernel, or the layer is another.

    Example:
      >>> layer = StructuralWeightNorm(nnx.Linear(8, 4, use_bias=False, rngs=nnx.Rngs(0)), group_size=4)
      >>> print(jnp.linalg.norm(layer(jnp.eye(8)), axis=0).round(4))
      [1.4142 1.4142 1.4142 1.4142]
    """

    def __init__(
        self,
        layer_instance: nnx.Linear | nnx.Conv | nnx.ConvTranspose,
        *,
        measure: Measure | None = None,
        base: Base = "orthogonal",
        strength: float | None = None,
        axis: Axis = "input",
        group_size: int | None = None,
        center: bool = True,
        method: Method = "newton",
        iterations: int = 20,
        rule: SparsityRule = "exact",
        min_scale: float = 0.1,
        max_scale: float = 10.0,
        use_scale: bool = True,
        initial_scale: float | None = None,
        param_dtype: Dtype = jnp.float32,
        initialize_from_batch: bool = False,
    ):
        if not isinstance(layer_instance, WRAPPED):
            raise ValueError(
                f"{type(self).__name__} wraps a Linear, Conv or ConvTranspose, and layer_instance is a "
                f"{type(layer_instance).__name__}."
            )
        self.layer_instance = layer_instance
        self.measure = measure
        self.base = base
        self.strength = strength
        self.axis = axis
        self.group_size = group_size
        self.center = center
        self.method = method
        self.iterations = iterations
        self.rule = rule
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.use_scale = use_scale
        self.initialize_from_batch = initialize_from_batch
        self.scale: nnx.Param | None = nnx.data(None)
        if (start := starting_scale(base, use_scale, initial_scale)) is not None:
            outputs = as_flax(layer_instance.kernel[...], layer_instance).shape[-1]
            self.scale = nnx.Param(jnp.full((outputs,), start, param_dtype))
        jax.eval_shape(self.normalized_kernel)  # what does not suit the kernel is told here

    def __call__(self, *args: Any, **kwargs: Any) -> jax.Array:
        """What the layer gives with its normalised kernel; arguments are those of the layer."""
        y = self.materialize()(*args, **kwargs)
        if not self.initialize_from_batch or self.scale is None:
            return y
        mean, inverse = mean_and_inverse_deviation(y)
        self.scale[...] = (self.scale[...] * inverse).astype(self.scale.dtype)
        bias = self.layer_instance.bias
        if bias is not None:
            bias[...] = ((bias[...] - mean) * inverse).astype(bias.dtype)
            y = affine(y, None, -mean)
        return affine(y, inverse, None)

    def normalized_kernel(self) -> jax.Array:
        """The kernel that the layer takes, made of the one it stores."""
        options = {name: getattr(self, name) for name in STRUCTURE}
        groups = getattr(self.layer_instance, "feature_group_count", 1)
        scale = None if self.scale is None else self.scale[...]
        kernel = as_flax(self.layer_instance.kernel[...], self.layer_instance)
        normalized = structural_weight_norm(kernel, scale, feature_group_count=groups, **options)
        return as_flax(normalized, self.layer_instance)

    def materialize(self) -> nnx.Linear | nnx.Conv | nnx.ConvTranspose:
        """The layer with the normalised kernel as its own; exact zeros stay exact."""
        plain = nnx.clone(self.layer_instance)
        plain.kernel[...] = self.normalized_kernel()
        return plain
