"""Data-dependent initialisation of weight-normalised layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from normjax.functional.affine import affine
from normjax.functional.weight_norm import mean_and_inverse_deviation
from normjax.inference.arguments import arguments_of
from normjax.inference.materialize import PARAMS
from normjax.linen.no_norm import NoNorm
from normjax.linen.structural_weight_norm import StructuralWeightNorm

_DONE = "initialized_from_batch"  # marks a layer for the time of the pass


def initialize_from_batch(model: nn.Module, variables: Any, batch: Any, **options: Any) -> dict[str, Any]:
    r"""Sets scales and biases so that each weight-normalised layer gives mean 0 and variance 1 on a batch.

    With t the output of a layer for the scale 1 and the bias 0, and its moments over batch and space,

    .. math:: g = \frac{1}{\sqrt{\sigma_t^2}}, \qquad b = -\frac{\mu_t}{\sqrt{\sigma_t^2}},

    layer after layer, each fed by those before it in their new state. A bias stands in the layer, or in the norm
    ``none`` behind it; where there is none the mean stays. An output that is the same for all examples keeps its scale.

    Args:
      model: a Flax Linen model.
      variables: its variables, as ``init`` gives them; they stay as they are.
      batch: some 100 examples; a tuple gives several positional arguments, a dictionary keyword arguments.
      **options: further keyword arguments of the model, for example ``train=False``.

    Returns:
      The variables with new scales and biases.

    Raises:
      ValueError: the model has no ``StructuralWeightNorm`` with a scale, or the batch is empty.

    Example:
      >>> model = StructuralWeightNorm(nn.Dense(2), base="weight_norm")
      >>> x = jax.random.normal(jax.random.key(0), (64, 8))
      >>> variables = initialize_from_batch(model, model.init(jax.random.key(1), x), x)
      >>> print(model.apply(variables, x).std(0).round(3))
      [1. 1.]

    References:
      Salimans, Kingma, `Weight Normalization <https://arxiv.org/abs/1602.07868>`_, 2016, section 3.
    """
    arguments, keywords = arguments_of(batch)
    for array in jax.tree.leaves((arguments, keywords)):
        if jnp.ndim(array) and not jnp.shape(array)[0]:
            raise ValueError(f"the batch is empty: an input has shape {jnp.shape(array)}.")
    wrappers: set[tuple[str, ...]] = set()

    def set_scales(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        y = call(*args, **kwargs)
        is_wrapper = isinstance(module, StructuralWeightNorm) and module.use_scale
        is_bias = isinstance(module, NoNorm) and module.use_bias
        # A layer that is called again stays as its first call has set it. The mark is a variable: code that is lifted
        # may be traced more than once.
        if context.method_name != "__call__" or not (is_wrapper or is_bias) or module.has_variable(PARAMS, _DONE):
            return y
        module.put_variable(PARAMS, _DONE, jnp.ones(()))
        if is_wrapper:
            wrappers.add(module.path)
            return _standardised(y, module, module.layer_instance)
        mean, _ = mean_and_inverse_deviation(y)
        _update(module, "bias", lambda bias: bias - mean)
        return affine(y, None, -mean)

    def initialized(variables: Any, arguments: Any, keywords: Any) -> Any:
        with nn.intercept_methods(set_scales):
            return model.apply(variables, *arguments, **keywords, **options, mutable=[PARAMS])[1][PARAMS]

    params = flatten_dict(unfreeze(jax.jit(initialized)(variables, arguments, keywords)))
    if not wrappers:
        raise ValueError(
            f"{type(model).__name__} has no StructuralWeightNorm with a scale, so there is nothing to initialise."
        )
    return {**variables, PARAMS: unflatten_dict({path: value for path, value in params.items() if path[-1] != _DONE})}


def _standardised(y: jax.Array, wrapper: nn.Module, layer: nn.Module) -> jax.Array:
    """The output of a layer after its scale and bias have been set by it."""
    mean, inverse = mean_and_inverse_deviation(y)
    _update(wrapper, "scale", lambda scale: scale * inverse)
    if layer.has_variable(PARAMS, "bias"):
        _update(layer, "bias", lambda bias: (bias - mean) * inverse)
        y = affine(y, None, -mean)
    return affine(y, inverse, None)


def _update(module: nn.Module, name: str, change: Any) -> None:
    value = jnp.asarray(module.get_variable(PARAMS, name))
    module.put_variable(PARAMS, name, change(value).astype(value.dtype))
