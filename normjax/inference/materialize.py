"""Materialising: reparametrised kernels written back as plain ones."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from normjax.inference.arguments import arguments_of
from normjax.linen.structural_weight_norm import StructuralWeightNorm

PARAMS = "params"
_PLAIN = "plain_kernel"  # where a kernel is noted


class Materialized(NamedTuple):
    """A network without reparametrisation."""

    apply: Callable[..., Any]
    variables: Any


def materialize(model: nn.Module, variables: Any, batch: Any, **options: Any) -> Materialized:
    """Writes the normalised kernel of each ``StructuralWeightNorm`` into its layer, and takes the scales out.

    The predictions stay the same and cost what those of plain layers cost; exact zeros stay exact. The variables are
    those of the same network without wrappers, so they can be loaded there.

    Args:
      model: a Flax Linen model.
      variables: its trained variables; they stay as they are.
      batch: an input of the model, for its shapes; a tuple gives several positional arguments, a dictionary keyword
        arguments.
      **options: further keyword arguments of the model, for example ``train=False``.

    Returns:
      ``(apply, variables)``: ``apply`` has the signature of ``model.apply`` and takes the kernels as they are.

    Raises:
      ValueError: the model has no such wrapper.

    Example:
      >>> import jax.numpy as jnp
      >>> model = StructuralWeightNorm(nn.Dense(2))
      >>> x = jnp.ones((1, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> apply, plain = materialize(model, variables, x)
      >>> sorted(plain["params"]), bool(jnp.allclose(apply(plain, x), model.apply(variables, x)))
      (['layer_instance'], True)
    """
    arguments, keywords = arguments_of(batch)
    scales: set[tuple[str, ...]] = set()

    def note_kernel(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if _is_wrapper_call(context):
            scale = module.get_variable(PARAMS, "scale") if module.use_scale else None
            layer = module.layer_instance
            # Beside the kernel and not in its place: a layer may be called, and lifted code traced, more than once.
            layer.put_variable(PARAMS, _PLAIN, module.normalized_kernel(layer.get_variable(PARAMS, "kernel"), scale))
            scales.add((*module.path, "scale"))
        return call(*args, **kwargs)

    def write(variables: Any) -> Any:
        with nn.intercept_methods(note_kernel):
            return model.apply(variables, *arguments, **keywords, **options, mutable=[PARAMS])[1][PARAMS]

    params = flatten_dict(unfreeze(jax.jit(write)(variables)))
    kernels = {(*path[:-1], "kernel"): params.pop(path) for path in list(params) if path[-1] == _PLAIN}
    if not kernels:
        raise ValueError(f"{type(model).__name__} has no StructuralWeightNorm, so there is nothing to materialise.")
    plain = unflatten_dict({path: value for path, value in (params | kernels).items() if path not in scales})
    return Materialized(_plain_apply(model), {**variables, PARAMS: plain})


def _plain_apply(model: nn.Module) -> Callable[..., Any]:
    def call_layer(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if _is_wrapper_call(context):
            return context.module.layer_instance(*args, **kwargs)
        return call(*args, **kwargs)

    @wraps(model.apply)
    def apply(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(call_layer):
            return model.apply(*args, **kwargs)

    return apply


def _is_wrapper_call(context: Any) -> bool:
    return isinstance(context.module, StructuralWeightNorm) and context.method_name == "__call__"
