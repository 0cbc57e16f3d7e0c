"""Materialising: reparametrised kernels written back as plain ones."""

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from normjax.inference.arguments import arguments_of
from normjax.linen.structural_weight_norm import WRAPPED, StructuralWeightNorm

Path = tuple[str, ...]  # of a module in the network

PARAMS = "params"
_PLAIN = "plain_kernel"  # where a kernel is noted


class Materialized(NamedTuple):
    """A network without reparametrisation."""

    apply: Callable[..., Any]
    variables: Any


def materialize(model: nn.Module, variables: Any, batch: Any, **options: Any) -> Materialized:
    """Writes the normalised kernel of each ``StructuralWeightNorm`` into its layer, and takes the scales out.

    The predictions stay the same and cost what those of plain layers cost; exact zeros stay exact. The variables are
    those of the same network without wrappers, so they can be loaded there. A wrapper that this call of the model does
    not reach stays as it is.

    Args:
      model: a Flax Linen model.
      variables: its trained variables; they stay as they are.
      batch: an input of the model, for its shapes; a tuple gives several positional arguments, a dictionary keyword
        arguments.
      **options: further keyword arguments of the model, for example ``train=False``.

    Returns:
      ``(apply, variables)``: ``apply`` has the signature of ``model.apply`` and takes the kernels as they are.

    Raises:
      ValueError: the model has no such wrapper, or a layer has two of them or is called without it as well, so that it
        has no kernel that serves all its calls.

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
    users: dict[Path, set[Path | None]] = {}  # of each layer: its wrappers, and None where it is called by itself
    inside: list[Path] = []  # the wrapped layers that are being called

    def note_kernel(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if isinstance(module, WRAPPED) and context.method_name == "__call__" and module.path not in inside:
            users.setdefault(module.path, set()).add(None)
        if not _is_wrapper_call(context):
            return call(*args, **kwargs)
        scale = module.get_variable(PARAMS, "scale") if module.use_scale else None
        layer = module.layer_instance
        kernel = nn.meta.unbox(layer.get_variable(PARAMS, "kernel"))
        # Beside the kernel and not in its place: a layer may be called, and lifted code traced, more than once.
        layer.put_variable(PARAMS, _PLAIN, module.normalized_kernel(kernel, scale))
        users.setdefault(layer.path, set()).add(module.path)
        inside.append(layer.path)
        y = call(*args, **kwargs)
        inside.pop()
        return y

    def write(variables: Any) -> Any:
        with nn.intercept_methods(note_kernel):
            return model.apply(variables, *arguments, **keywords, **options, mutable=[PARAMS])[1][PARAMS]

    params = flatten_dict(unfreeze(jax.jit(write)(variables)))
    noted = {path: params.pop(path) for path in list(params) if path[-1] == _PLAIN}
    if not noted:
        raise ValueError(f"{type(model).__name__} has no StructuralWeightNorm, so there is nothing to materialise.")
    _check_one_kernel_serves(users)
    for (*layer, _), kernel in noted.items():
        params[*layer, "kernel"] = nn.meta.replace_boxed(params[*layer, "kernel"], kernel)
    wrappers = {path for paths in users.values() for path in paths if path is not None}
    plain = unflatten_dict({path: value for path, value in params.items() if path[:-1] not in wrappers})
    return Materialized(_plain_apply(model, wrappers), {**variables, PARAMS: plain})


def _check_one_kernel_serves(users: dict[Path, set[Path | None]]) -> None:
    for layer, callers in users.items():
        if len(callers) > 1:
            named = " and ".join(sorted("no wrapper" if path is None else "/".join(path) for path in callers))
            raise ValueError(f"layer {'/'.join(layer)} is called through {named}: no single kernel serves them.")


def _plain_apply(model: nn.Module, wrappers: set[Path]) -> Callable[..., Any]:
    def call_layer(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if _is_wrapper_call(context) and context.module.path in wrappers:
            return context.module.layer_instance(*args, **kwargs)
        return call(*args, **kwargs)

    @wraps(model.apply)
    def apply(*args: Any, **kwargs: Any) -> Any:
        with nn.intercept_methods(call_layer):
            return model.apply(*args, **kwargs)

    return apply


def _is_wrapper_call(context: Any) -> bool:
    return isinstance(context.module, StructuralWeightNorm) and context.method_name == "__call__"
