"""Values of a traced network that its variables alone decide, computed only when asked for."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from normjax.tracing.program import Path, shape_of

Shape = tuple[int, ...]

# They act on each element alone, so values that repeat along an axis need to be computed once.
_ELEMENTWISE = frozenset({"abs", "add", "convert_element_type", "copy", "div", "exp", "integer_pow", "log", "max"})
_ELEMENTWISE |= {"min", "mul", "neg", "pow", "rsqrt", "sign", "sqrt", "square", "sub", "tanh"}


class Known:
    """An array that does not depend on the input.

    Attributes:
      shape: shape in the program.
      compact: the same with 1 for each axis along which the values merely repeat.
      names: paths of the variables it is made of.
    """

    def __init__(self, shape: Shape, compact: Shape, names: frozenset[Path], compute: Callable[[], Any]):
        self.shape = shape
        self.compact = compact
        self.names = names
        self._compute = compute
        self._value: Any = None

    @classmethod
    def constant(cls, value: Any) -> "Known":
        """A value that no variable has a part in."""
        shape = np.shape(value)
        return cls(shape, shape, frozenset(), lambda: jnp.asarray(value))

    @property
    def value(self) -> Any:
        """The array in its compact shape."""
        if self._value is None:
            self._value = self._compute()
        return self._value

    @property
    def full(self) -> Any:
        """The array as the program has it."""
        return jnp.broadcast_to(self.value, self.shape)

    def map(self, compact: Shape, f: Callable[[Any], Any]) -> "Known":
        """A known value made of this one, in the given compact shape."""
        return Known(compact, compact, self.names, lambda: f(self.value))

    def combine(self, other: "Known", f: Callable[[Any, Any], Any]) -> "Known":
        """Two values of the same rank, element by element."""
        compact = np.broadcast_shapes(self.compact, other.compact)
        return Known(compact, compact, self.names | other.names, lambda: f(self.value, other.value))


def evaluate(equation: JaxprEqn, inputs: Sequence[Known]) -> list[Known]:
    """The outputs of an equation whose inputs are all known."""
    names = frozenset[Path]().union(*(value.names for value in inputs))
    shapes = [shape_of(v) for v in equation.outvars]
    if equation.primitive.name == "broadcast_in_dim" and len(inputs) == 1:
        return [_broadcast(equation, inputs[0], names)]
    if equation.primitive.name in _ELEMENTWISE:
        return [_elementwise(equation, inputs, names)]
    results: list[Any] = []

    def output(index: int) -> Any:
        if not results:
            results.extend(bind(equation, [value.full for value in inputs]))
        return results[index]

    return [Known(shape, shape, names, partial(output, i)) for i, shape in enumerate(shapes)]


def bind(equation: JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """Runs an equation on arrays."""
    outputs = equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def _broadcast(equation: JaxprEqn, operand: Known, names: frozenset[Path]) -> Known:
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    compact = [1] * len(shape)
    for size, axis in zip(operand.compact, axes, strict=True):
        compact[axis] = size
    return Known(shape, tuple(compact), names, lambda: lax.broadcast_in_dim(operand.value, tuple(compact), axes))


def _elementwise(equation: JaxprEqn, inputs: Sequence[Known], names: frozenset[Path]) -> Known:
    shape = shape_of(equation.outvars[0])
    expanded = [value.compact or (1,) * len(shape) for value in inputs]
    compact = np.broadcast_shapes(*expanded)

    def compute() -> Any:
        values = [
            jnp.broadcast_to(jnp.reshape(value.value, own), compact)
            for value, own in zip(inputs, expanded, strict=True)
        ]
        return bind(equation, values)[0]

    return Known(shape, compact, names, compute)
