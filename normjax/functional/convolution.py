"""Convolutions that train fast on CPUs: a drop-in for JAX's, and transformations that use one of the two throughout."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.typing import ArrayLike
from jaxtyping import Array

from normjax.functional.convolution_cpu import convolve_on_cpu


def conv_general_dilated(lhs: ArrayLike, rhs: ArrayLike, *args: Any, **kwargs: Any) -> Array:
    r"""The convolution of ``jax.lax.conv_general_dilated``, computed faster on CPUs.

    .. math:: y_{n,p,o} = \sum_{q,i} x_{n,p+q,i}\, k_{q,i,o}, \qquad
      \partial L/\partial k_{q,i,o} = \sum_{n,p} x_{n,p+q,i}\, g_{n,p,o}.

    On CPUs the gradient of the kernel is accumulated over chunks of the batch, and two-dimensional convolutions take
    a form for which XLA has faster code. Programs for other platforms are those of JAX. Derivatives of all orders and
    ``vmap`` have the same property. Sums are in float32 for half-precision input.

    Args:
      lhs: input of the convolution, for example (batch, height, width, channels).
      rhs: kernel, for example (height, width, input channels, output channels).
      *args: as for ``jax.lax.conv_general_dilated``.
      **kwargs: as for ``jax.lax.conv_general_dilated``.

    Returns:
      The convolution; equal to JAX's except for the order of summation.

    Raises:
      TypeError, ValueError: as ``jax.lax.conv_general_dilated``.

    Example:
      >>> from flax import linen as nn
      >>> layer = nn.Conv(16, (3, 3), conv_general_dilated=conv_general_dilated)
      >>> print(jax.eval_shape(layer.init_with_output, jax.random.key(0), jax.numpy.ones((2, 8, 8, 3)))[0].shape)
      (2, 8, 8, 16)
    """
    return cpu_convolutions(lambda lhs, rhs: lax.conv_general_dilated(lhs, rhs, *args, **kwargs))(lhs, rhs)


def cpu_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every convolution replaced by ``normjax.functional.conv_general_dilated``.

    Wrap a whole training step, or a model that is differentiated later; it may be written with any library. Compile
    it and map it over devices afterwards.

    Args:
      function: takes arrays, or trees of them, as positional arguments; keyword arguments are static.

    Returns:
      A function with the same arguments and results.

    Example:
      >>> def loss(kernel, x):
      ...     return (lax.conv(x, kernel, (1, 1), "SAME") ** 2).sum()
      >>> step = jax.jit(cpu_convolutions(jax.grad(loss)))
      >>> print(step(jax.numpy.ones((1, 1, 1, 1)), jax.numpy.ones((2, 1, 2, 2))))
      [[[[16.]]]]
    """
    return _with(_convolution_p, function)


def xla_convolutions(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with every ``normjax.functional.conv_general_dilated`` replaced by JAX's convolution.

    Args:
      function: as for ``cpu_convolutions``, which this undoes.

    Returns:
      A function with the same arguments and results.

    Example:
      >>> layer = partial(conv_general_dilated, window_strides=(1,), padding="SAME")
      >>> x, kernel = jax.numpy.ones((1, 1, 5)), jax.numpy.ones((1, 1, 3))
      >>> print(xla_convolutions(layer)(x, kernel))
      [[[2. 3. 3. 3. 2.]]]
    """
    return _with(lax.conv_general_dilated_p, function)


def _with(primitive: Primitive, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def with_replacements(*args: Any, **kwargs: Any) -> Any:
        traced, shapes = jax.make_jaxpr(partial(function, **kwargs), return_shape=True)(*args)
        outputs = jaxpr_as_fun(_replaced(traced, primitive))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return with_replacements


def _replaced(program: Any, primitive: Primitive) -> Any:
    """A parameter of an equation; if it holds jaxprs, with this primitive for the convolutions in them."""
    if isinstance(program, ClosedJaxpr):
        return program.replace(jaxpr=_replaced(program.jaxpr, primitive))
    if isinstance(program, Jaxpr):
        return program.replace(eqns=[_replaced_equation(equation, primitive) for equation in program.eqns])
    if isinstance(program, tuple) and any(isinstance(part, ClosedJaxpr | Jaxpr) for part in program):
        return tuple(_replaced(part, primitive) for part in program)
    return program


def _replaced_equation(equation: JaxprEqn, primitive: Primitive) -> JaxprEqn:
    if equation.primitive in (_convolution_p, lax.conv_general_dilated_p):
        return equation.replace(primitive=primitive)
    return equation.replace(params={name: _replaced(value, primitive) for name, value in equation.params.items()})


# The primitive has the name and the parameters of JAX's, so whoever reads jaxprs needs no second rule. It differs in
# how it is lowered for CPUs; all its other rules are those of JAX, with this primitive in the result.
_convolution_p = Primitive("conv_general_dilated")


def _transposed(position: int, cotangent: Array, lhs: Any, rhs: Any, **params: Any) -> Array:
    known, unknown = (rhs, lhs) if position == 0 else (lhs, rhs)

    def pull(cotangent: Array, known: Array) -> Array:
        operands: list[Any] = [known, known]
        operands[position] = ad.UndefinedPrimal(unknown.aval)
        results = ad.primitive_transposes[lax.conv_general_dilated_p](cotangent, *operands, **params)
        return ad.instantiate_zeros(results[position])

    return cpu_convolutions(pull)(cotangent, known)


def _batched(operands: Any, dims: Any, **params: Any) -> tuple[Array, int]:
    mapped = jax.vmap(partial(lax.conv_general_dilated_p.bind, **params), in_axes=tuple(dims))
    return cpu_convolutions(mapped)(*operands), 0


@partial(jax.jit, static_argnums=(2, 3))
def _compiled(lhs: ArrayLike, rhs: ArrayLike, names: tuple[str, ...], values: tuple[Any, ...]) -> Array:
    return _convolution_p.bind(lhs, rhs, **dict(zip(names, values, strict=True)))


@_convolution_p.def_impl
def _outside_of_jit(lhs: ArrayLike, rhs: ArrayLike, **params: Any) -> Array:
    return _compiled(lhs, rhs, tuple(params), tuple(params.values()))


@_convolution_p.def_abstract_eval
def _shape(*avals: Any, **params: Any) -> Any:
    return lax.conv_general_dilated_p.abstract_eval(*avals, **params)[0]


ad.defbilinear(_convolution_p, partial(_transposed, 0), partial(_transposed, 1))
batching.primitive_batchers[_convolution_p] = _batched
mlir.register_lowering(_convolution_p, mlir.lower_fun(lax.conv_general_dilated_p.bind, multiple_results=False))
mlir.register_lowering(_convolution_p, mlir.lower_fun(convolve_on_cpu, multiple_results=False), platform="cpu")
