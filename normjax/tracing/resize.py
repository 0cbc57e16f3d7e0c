"""Runs a traced network at other sizes: with the neurons that are left."""

from collections.abc import Callable, Collection, Sequence
from copy import copy
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn

from normjax.tracing.dependencies import Frame, Tracer, derivative, differentiable
from normjax.tracing.dimensions import Components, Dim, Value
from normjax.tracing.follow import follow
from normjax.tracing.known import bind
from normjax.tracing.program import Path, Program, closed, inlined, interpret
from normjax.tracing.resize_rules import RESIZED, Step, cut, grow, sizes

Alive = dict[tuple[Path, int], np.ndarray]  # which elements are left, by variable and dimension; all of those not named


class Resized:
    """A program of which some elements of the variables have gone.

    Args:
      program: as ``capture`` gives it.
      alive: what is left of the dimensions of the variables.
      known: the variables of which this says all; of others what is left follows from it.

    Attributes:
      frame: all values of the program.

    Raises:
      ValueError: this program needs what has gone.
    """

    def __init__(self, program: Program, alive: Alive, known: Collection[Path]):
        self.program = program
        self._tracer, _, self.frame = follow(program)
        self._components, self._known = self._tracer.atoms.components(), known
        self._gone = _gone(self._tracer, self._components, alive, known)

    def with_alive(self, alive: Alive) -> "Resized":
        """The same program, which is not followed again, with other elements left."""
        other = copy(self)
        other._gone = _gone(self._tracer, self._components, alive, self._known)
        return other

    def __call__(self, variables: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """The outputs.

        Args:
          variables: what is left of them, in the order of the program's paths.
          args: the other inputs.
        """
        whole = ClosedJaxpr(self.program.jaxpr, self.program.constants)
        return self._inner(whole, self.frame)(*variables, *args)

    def shape(self, path: Path) -> tuple[int, ...]:
        """The sizes that are left of a variable."""
        return self._shape(self._tracer.variables[path])

    def alive(self, dim: Dim) -> np.ndarray:
        """Which elements of a dimension of the program are left."""
        return ~self._gone[self._components.of(dim.labels)]

    def _shape(self, value: Value) -> tuple[int, ...]:
        return sizes(value, self.alive)

    def _inner(self, program: Any, frame: Frame) -> Callable[..., list[Any]]:
        """A program, or one inside it, as a function of what is left of its inputs."""
        inner = closed(program)

        def function(*inputs: Any) -> list[Any]:
            constants = [
                cut(value, self._all_alive(frame.value(v)))
                for v, value in zip(inner.jaxpr.constvars, inner.consts, strict=True)
            ]
            return interpret(inner.jaxpr, [*constants, *inputs], partial(self._step, frame))

        return function

    def _all_alive(self, value: Value) -> list[np.ndarray]:
        return [self.alive(dim) for dim in value.dims]

    def _step(self, frame: Frame, number: int, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
        name, calls = equation.primitive.name, frame.calls.get(number, [])
        before = [frame.value(v) for v in equation.invars]
        after = [frame.value(v) for v in equation.outvars]
        if name == "custom_vjp_call":
            # Its backward pass is a function of Python that knows the sizes it was traced with.
            whole = [grow(x, self._all_alive(value)) for x, value in zip(inputs, before, strict=True)]
            outputs = bind(equation, whole)
            return [cut(y, self._all_alive(value)) for y, value in zip(outputs, after, strict=True)]
        if (called := inlined(equation)) is not None:
            function = self._inner(called, calls[0])
            if len(calls) > 1:
                return self._with_derivative(equation, function, calls[1], inputs)
            if name in ("remat2", "checkpoint"):
                policy, prevent_cse = equation.params["policy"], equation.params["prevent_cse"]
                return jax.checkpoint(function, policy=policy, prevent_cse=prevent_cse)(*inputs)
            return function(*inputs)
        if name == "cond":
            return self._condition(equation, calls, inputs)
        if name == "scan":
            return self._scan(equation, calls[0], inputs)
        if name in RESIZED and any(self._shape(value) != value.shape for value in (*before, *after)):
            return RESIZED[name](Step(equation, inputs, before, after, self.alive))
        return bind(equation, inputs)

    def _condition(self, equation: JaxprEqn, calls: list[Frame], inputs: list[Any]) -> list[Any]:
        functions = [self._inner(b, frame) for b, frame in zip(equation.params["branches"], calls, strict=True)]
        index, *operands = inputs
        platforms = equation.params.get("branches_platforms")
        if platforms is None:
            return lax.switch(index, functions, *operands)
        named = {name: f for names, f in zip(platforms, functions, strict=True) for name in names or ()}
        others = [f for names, f in zip(platforms, functions, strict=True) if names is None]
        return lax.platform_dependent(*operands, default=others[0] if others else None, **named)

    def _scan(self, equation: JaxprEqn, frame: Frame, inputs: list[Any]) -> list[Any]:
        params = equation.params
        count, carried = params["num_consts"], params["num_carry"]
        function = self._inner(params["jaxpr"], frame)

        def step(carry: Any, stacked: Any) -> tuple[Any, Any]:
            outputs = function(*inputs[:count], *carry, *stacked)
            return outputs[:carried], outputs[carried:]

        options = {name: params[name] for name in ("length", "reverse", "unroll")}
        carry, stacked = lax.scan(step, inputs[count : count + carried], inputs[count + carried :], **options)
        return [*carry, *stacked]

    def _with_derivative(
        self, equation: JaxprEqn, function: Callable[..., list[Any]], frame: Frame, inputs: list[Any]
    ) -> list[Any]:
        """Calls a function with the derivative that the network gives of it."""
        count = equation.params["num_consts"]
        jaxpr, constants, zeros = derivative(equation)
        rule = self._inner(ClosedJaxpr(jaxpr, constants), frame)
        with_tangent = [differentiable(v) for v in equation.invars[count:]]
        call = jax.custom_jvp(partial(function, *inputs[:count]))

        @call.defjvp
        def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
            nonzero = [tangent for tangent, has in zip(tangents, with_tangent, strict=True) if has]
            results = rule(*primals, *nonzero)
            outputs, found = results[: len(zeros)], iter(results[len(zeros) :])
            return outputs, [
                np.zeros(jnp.shape(y), jax.dtypes.float0 if not jnp.issubdtype(y.dtype, jnp.inexact) else y.dtype)
                if zero
                else next(found)
                for y, zero in zip(outputs, zeros, strict=True)
            ]

        return call(*inputs[count:])


def _gone(tracer: Tracer, components: Components, alive: Alive, known: Collection[Path]) -> np.ndarray:
    """Which components have gone; the last entry is for what is fixed."""
    gone = np.zeros(components.of_atom.max() + 2, bool)
    for (path, axis), left in alive.items():
        if path in tracer.variables:
            gone[components.of(tracer.variables[path].dims[axis].labels[~left])] = True
    for path in tracer.variables.keys() & set(known):
        for axis, dim in enumerate(tracer.variables[path].dims):
            left = alive.get((path, axis), np.ones(len(dim.labels), bool))
            if not np.array_equal(~gone[components.of(dim.labels)], left):
                raise ValueError(
                    f"this call of the network ties other elements of {'/'.join(path)}, dimension {axis}, than those "
                    "that have gone."
                )
    for labels, reason in tracer.atoms.unsized:
        if gone[components.of(labels)].any():
            raise ValueError(f"this call of the network cannot do without what has gone: {reason}.")
    return gone
