"""A function of variables and inputs as a jaxpr whose inputs are known by the paths of the variables."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.interpreters import partial_eval

Path = tuple[str, ...]
_STAND_IN = 7  # no product of it is mistaken for a size of 1

# Primitives that only call a program, and the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Program(NamedTuple):
    """A traced function."""

    jaxpr: Jaxpr  # without equations that nothing uses
    constants: list[Any]
    paths: tuple[Path, ...]  # of the variables, in the order of the first inputs
    output: Any  # tree of the output's shapes


def capture(function: Callable[..., Any], variables: Any, *args: Any, **kwargs: Any) -> Program:
    """The jaxpr of ``function(variables, *args, **kwargs)``; keyword arguments are fixed.

    Args:
      function: for example ``model.apply``.
      variables: nested dictionaries of arrays, or of their shapes.
      *args: arrays or their shapes.
      **kwargs: taken as they are.
    """
    traced, output = jax.make_jaxpr(lambda v, a: function(v, *a, **kwargs), return_shape=True)(variables, args)
    jaxpr, _ = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars), instantiate=True)
    return Program(jaxpr, traced.consts, tuple(leaf_paths(variables)), output)


def leaf_paths(tree: Any) -> dict[Path, Any]:
    """The leaves of nested dictionaries by their paths, in the order of ``jax.tree.leaves``."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(jax.tree_util.keystr((key,), simple=True) for key in path): leaf for path, leaf in flat}


def nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    """Nested dictionaries of leaves by path."""
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def shape_of(v: Any) -> tuple[int, ...]:
    """Shape of a variable of a jaxpr."""
    return v.aval.shape


def sizes_of(v: Any) -> tuple[int, ...]:
    """The same in numbers: a size that is left open, as in an export, has a number that stands in for it."""
    return tuple(map(as_number, shape_of(v)))


def as_number(size: Any) -> int:
    """A size, or what stands in for one that is left open."""
    if not isinstance(size, int | np.integer):
        size = size._evaluate(dict.fromkeys(size._get_vars(), _STAND_IN))
    return int(size)


def dtype_of(v: Any) -> Any:
    """Type of a variable of a jaxpr."""
    return v.aval.dtype


def inlined(equation: JaxprEqn) -> ClosedJaxpr | None:
    """The program that an equation only calls; None where it does something of its own."""
    name = _CALLS.get(equation.primitive.name)
    if name is None:
        return None
    return closed(equation.params[name])


def closed(program: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    """A jaxpr with its constants, none where it has none."""
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, [])


def interpret(
    jaxpr: Jaxpr, inputs: Sequence[Any], step: Callable[[int, JaxprEqn, list[Any]], Sequence[Any]]
) -> list[Any]:
    """Runs a jaxpr equation by equation.

    Args:
      jaxpr: the program.
      inputs: its constants, then its inputs.
      step: gives the outputs of an equation, from its number and the values that it reads.
    """
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else values[v]

    for number, equation in enumerate(jaxpr.eqns):
        outputs = step(number, equation, [read(v) for v in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def uses(jaxpr: Jaxpr) -> Counter[Var]:
    """How often each variable of a jaxpr is read, by its equations or as an output."""
    read = [v for equation in jaxpr.eqns for v in equation.invars] + list(jaxpr.outvars)
    return Counter(v for v in read if not isinstance(v, Literal))
