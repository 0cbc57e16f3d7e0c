"""Follows the dimensions of the variables through a traced network: what must live or die together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from normjax.linen.statistics import REFERENCE_STATS
from normjax.tracing.dimensions import FIXED, Atoms, Dim, Origin, Value
from normjax.tracing.program import Path, as_number, inlined, sizes_of

PARAMS = "params"  # the collection whose variables are trained

Rule = Callable[["Tracer", JaxprEqn, Sequence[Value]], list[Value]]


class Rules(dict[str, Rule]):
    """What primitives do to dimensions, by their names."""

    def __call__(self, *names: str) -> Callable[[Rule], Rule]:
        """Registers a function for primitives."""

        def register(function: Rule) -> Rule:
            self.update(dict.fromkeys(names, function))
            return function

        return register


@dataclass
class Frame:
    """The values of one call of a jaxpr, and of the calls in it by the number of their equation."""

    values: dict[Var, Value] = field(default_factory=dict)
    calls: dict[int, list["Frame"]] = field(default_factory=dict)
    repeated: bool = False  # in a loop, a branch or a derivative

    def value(self, v: Any) -> Value:
        """What is known of a variable or literal of the jaxpr."""
        return constant(v.val) if isinstance(v, Literal) else self.values[v]


class Tap(NamedTuple):
    """Where a kernel reads activations."""

    frame: Frame
    equation: int  # in the frame
    operand: int
    axis: int
    value: Value

    @property
    def dim(self) -> Dim:
        """The features that it sums over."""
        return self.value.dims[self.axis]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the activations."""
        return self.value.shape


@dataclass
class Tracer:
    """What has been found while a program is followed.

    Attributes:
      rules: of the primitives.
      atoms: of all dimensions.
      variables: by path.
      order: paths in the order in which the program reads them.
      produced: dimensions of variables that make the features of an output, as those of a kernel.
      consumed: dimensions of variables over which features are summed.
      taps: where that is, outside of loops and branches.
    """

    rules: Rules
    atoms: Atoms = field(default_factory=Atoms)
    variables: dict[Path, Value] = field(default_factory=dict)
    order: dict[Path, None] = field(default_factory=dict)
    produced: set[Origin] = field(default_factory=set)
    consumed: set[Origin] = field(default_factory=set)
    taps: list[Tap] = field(default_factory=list)
    _place: tuple[Frame, int] | None = None  # of the equation that is followed

    def follow(
        self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Value], *, repeated: bool = False
    ) -> tuple[list[Value], Frame]:
        """Carries the dimensions of the inputs through a jaxpr.

        Args:
          jaxpr: the program.
          constants: its constants.
          inputs: what is known of its inputs.
          repeated: whether it runs more or less often than once.
        """
        frame = Frame(dict(zip(jaxpr.constvars, (self.constant(value) for value in constants), strict=True)))
        frame.repeated = repeated
        frame.values.update(zip(jaxpr.invars, inputs, strict=True))
        for number, equation in enumerate(jaxpr.eqns):
            values = [frame.value(v) for v in equation.invars]
            for value in values:
                self.order.update((dim.origin.path, None) for dim in value.dims if dim.origin is not None)
            self._place = None if frame.repeated else (frame, number)
            outputs = self._step(equation, values, frame, number)
            # Within a call each output has its own inputs.
            if inlined(equation) is None and any(value.given for value in values):
                outputs = [value._replace(given=True) for value in outputs]
            frame.values.update(zip(equation.outvars, outputs, strict=True))
        return [frame.value(v) for v in jaxpr.outvars], frame

    def tap(self, operand: int, axis: int, value: Value) -> None:
        """Notes that the equation sums over a dimension of an operand that is no variable."""
        if self._place is not None:
            self.taps.append(Tap(*self._place, operand, axis, value))

    def _step(self, equation: JaxprEqn, inputs: list[Value], frame: Frame, number: int) -> list[Value]:
        name = equation.primitive.name
        if (called := inlined(equation)) is not None:
            outputs, inner = self.follow(called.jaxpr, called.consts, inputs, repeated=frame.repeated)
            frame.calls[number] = [inner]
            if name == "custom_jvp_call" and not self.atoms.sizes_only:  # a derivative may call its own function
                frame.calls[number].append(self._derivative(equation, inputs, outputs))
            return outputs
        if name == "cond":
            return self._branches(equation, inputs, frame, number)
        if name == "scan":
            return self._scan(equation, inputs, frame, number)
        if name in self.rules:
            return self.rules[name](self, equation, inputs)
        return self.unknown(equation, inputs)

    def _branches(self, equation: JaxprEqn, inputs: list[Value], frame: Frame, number: int) -> list[Value]:
        branches = equation.params["branches"]
        followed = [self.follow(b.jaxpr, b.consts, inputs[1:], repeated=True) for b in branches]
        frame.calls[number] = [inner for _, inner in followed]
        outputs = followed[0][0]
        for others, _ in followed[1:]:
            outputs = [self.joined(a, b, "the branches of a condition") for a, b in zip(outputs, others, strict=True)]
        return outputs

    def _scan(self, equation: JaxprEqn, inputs: list[Value], frame: Frame, number: int) -> list[Value]:
        body, count, carried = (equation.params[name] for name in ("jaxpr", "num_consts", "num_carry"))
        constants, carry, stacked = inputs[:count], inputs[count : count + carried], inputs[count + carried :]
        for value in stacked:
            self.atoms.hold(value.dims[0].labels, "scan goes along it", sized=False)
        steps = [value._replace(dims=value.dims[1:]) for value in stacked]
        # The body is followed with the labels of the first step, and what it carries on is tied to them.
        carry = [_doubtful(value) for value in carry]
        outputs, inner = self.follow(body.jaxpr, body.consts, [*constants, *carry, *steps], repeated=True)
        frame.calls[number] = [inner]
        ends = [self.joined(a, b, "scan carries it") for a, b in zip(carry, outputs[:carried], strict=True)]
        length = Dim(np.full(as_number(equation.params["length"]), FIXED), zero=False)
        return [*ends, *(Value((length, *value.dims), value.null) for value in outputs[carried:])]

    def _derivative(self, equation: JaxprEqn, inputs: list[Value], outputs: list[Value]) -> Frame:
        """Follows the derivative that the network gives of a function of its own."""
        jaxpr, constants, zeros = derivative(equation)
        count = equation.params["num_consts"]
        primals = inputs[count:]
        tangents = [value for value, v in zip(primals, equation.invars[count:], strict=True) if differentiable(v)]
        before, self.atoms.sizes_only = self.atoms.sizes_only, True
        results, frame = self.follow(jaxpr, constants, [*primals, *tangents], repeated=True)
        self.atoms.sizes_only = before
        nonzero = [value for value, zero in zip(outputs, zeros, strict=True) if not zero]
        for a, b in zip([*outputs, *nonzero], results, strict=True):
            self.joined(a, b, "a derivative")
        return frame

    def joined(self, a: Value, b: Value, reason: str) -> Value:
        """One value that is now this, now that."""
        dims = tuple(
            Dim(self.atoms.tie(x.labels, y.labels, reason), x.zero and y.zero)
            for x, y in zip(a.dims, b.dims, strict=True)
        )
        return Value(dims, a.null and b.null)

    def variable(self, path: Path, shape: tuple[int, ...]) -> Value:
        """Atoms for a variable; a mask makes those of parameters 0, and leaves running statistics as they are."""
        # The moments of a reference batch under masked parameters are 0, but for their count.
        masked = path[0] == PARAMS or (path[0] == REFERENCE_STATS and path[-1] != "count")
        dims = (Dim(self.atoms.strong(size), masked, Origin(path, axis)) for axis, size in enumerate(shape))
        self.variables[path] = Value(tuple(dims))
        return self.variables[path]

    def constant(self, array: Any) -> Value:
        """A constant of the program, whose elements may go with those of a variable."""
        found = constant(array)
        return Value(tuple(Dim(self.atoms.weak(size), found.null) for size in found.shape), found.null)

    def unknown(self, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
        """What is not known to be followed is kept whole, and so is all that it is tied to."""
        for value in inputs:
            self.hold(value, f"{equation.primitive.name} cannot be followed", sized=False)
        return [fixed(sizes_of(v)) for v in equation.outvars]

    def hold(self, value: Value, reason: str, *, sized: bool = True) -> None:
        """Keeps all dimensions of a value whole."""
        for dim in value.dims:
            self.atoms.hold(dim.labels, reason, sized=sized)


def fixed(shape: tuple[int, ...]) -> Value:
    """A value whose sizes no variable decides."""
    return Value(tuple(Dim(np.full(size, FIXED), zero=False) for size in shape))


def constant(array: Any) -> Value:
    """A number in the program, or an array of which only the sizes and whether all is 0 matter here."""
    readable = isinstance(array, (int, float, bool, np.ndarray, np.generic))
    null = readable and np.size(array) > 0 and not np.any(array)
    return fixed(np.shape(array))._replace(null=bool(null))


def derivative(equation: JaxprEqn) -> tuple[Jaxpr, list[Any], Sequence[bool]]:
    """The jaxpr of a custom derivative: of the inputs and the tangents of those that have one.

    Returns:
      The jaxpr, its constants, and which outputs have no tangent.
    """
    inputs = equation.invars[equation.params["num_consts"] :]
    zeros = [not differentiable(v) for v in inputs]
    return equation.params["jvp_jaxpr_fun"].call_wrapped(*zeros)


def differentiable(v: Any) -> bool:
    """Whether a variable of a jaxpr has a tangent."""
    return jnp.issubdtype(v.aval.dtype, jnp.inexact)


def _doubtful(value: Value) -> Value:
    """A value that later steps replace: whether it is 0 where variables are 0 is not known."""
    return Value(tuple(Dim(dim.labels, zero=False) for dim in value.dims), given=value.given)
