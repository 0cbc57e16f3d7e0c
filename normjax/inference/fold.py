"""Folding normalization by running statistics into the layers before it, for any Flax model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from normjax.inference.pending import Linear, Pending, linear_operation
from normjax.tracing import Known, capture, inlined, leaf_paths, nested
from normjax.tracing.known import bind, evaluate
from normjax.tracing.program import Path, Program, dtype_of, shape_of, uses

_ANOTHER_WAY = (
    "the network takes another way for these inputs than for the example it was folded with; "
    "fold it with an example like these."
)


class Folded(NamedTuple):
    """A network without the normalization that could be folded away."""

    apply: "FoldedApply"
    variables: dict[str, Any]


@dataclass(frozen=True, eq=False)  # by identity, as a function: jit needs its hash
class FoldedApply:
    """The folded network: called as ``model.apply``, with the variables of ``Folded``.

    Attributes:
      folded: the layers whose scale and offset went into the kernel before them, by path.
      multiply_adds: the layers with nothing before them to fold into: one multiplication and addition each.
    """

    function: Callable[..., Any]
    shapes: Any  # of the variables that the network had
    options: dict[str, Any]
    entries: tuple["_Entry", ...]
    folded: tuple[str, ...]
    multiply_adds: tuple[str, ...]

    def __call__(self, variables: Any, *args: Any) -> Any:
        """The network's output.

        Args:
          variables: those of ``Folded``.
          *args: as for ``model.apply``; keyword arguments are those given to ``fold``.

        Raises:
          ValueError: the network does something else for these inputs than for the example it was folded with.
        """
        program = capture(self.function, self.shapes, *args, **self.options)
        machine = _Machine(leaf_paths(variables), self.entries)
        outputs = machine.run_program(program, args)
        if machine.used != len(self.entries):
            raise ValueError(_ANOTHER_WAY)
        return jax.tree.unflatten(jax.tree.structure(program.output), outputs)


def fold(model: Any, variables: Any, example: Any, **options: Any) -> Folded:
    r"""The network with each batch normalization folded into the convolution or product before it.

    At inference a norm by running statistics is :math:`s x + t` for each channel. After a linear layer,

    .. math:: s (W x + b) + t = (s W) x + (s b + t),

    so it costs nothing. The network is traced, and any chain of additions and multiplications by
    what its variables decide is merged into the kernel before it; no name of a layer matters.

    Args:
      model: a Flax Linen model (or anything with ``apply(variables, example, **options)``).
      variables: its trained variables.
      example: an input, or a tuple of inputs, for shapes and types; other batch sizes work too.
      **options: keyword arguments of the model at inference, for example ``train=False``.

    Returns:
      ``(apply, variables)``: ``apply(variables, x)`` predicts as the model does. ``apply.folded`` names the
      layers folded, ``apply.multiply_adds`` those that became one multiplication and addition.

    Example:
      >>> from flax import linen as nn
      >>> model = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=True)])
      >>> x = jnp.ones((2, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> apply, folded = fold(model, variables, x)
      >>> sorted(folded), bool(jnp.allclose(apply(folded, x), model.apply(variables, x)))
      (['params'], True)

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
      Inference <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.2.
    """
    args = example if isinstance(example, tuple) else (example,)
    shapes = jax.eval_shape(lambda tree: tree, variables)
    program = capture(model.apply, shapes, *args, **options)
    planned: list[_Entry] = []

    def computed(variables: Any, args: Any) -> list[dict[str, Any]]:
        machine = _Machine(leaf_paths(variables), None)
        machine.run_program(program, args)
        planned.extend(machine.planned)
        return machine.computed

    arrays = jax.jit(computed)(variables, args)
    originals = _still_read(program, leaf_paths(variables), planned, arrays, args)
    entries = _distinct(planned, set(originals))
    leaves = {path: leaf for path, leaf in leaf_paths(variables).items() if path in originals}
    for entry, values in zip(entries, arrays, strict=True):
        leaves |= {entry.paths[name]: value for name, value in values.items()}
    apply = FoldedApply(
        model.apply,
        shapes,
        options,
        entries,
        folded=tuple(entry.norm for entry in entries if "kernel" in entry.paths),
        multiply_adds=tuple(entry.norm for entry in entries if "kernel" not in entry.paths),
    )
    return Folded(apply, nested(leaves))


@dataclass(frozen=True)
class _Entry:
    """Where the arrays of one merged chain lie in the folded variables."""

    norm: str  # path of the layer that gave the scale
    paths: dict[str, Path]  # of "kernel" or "scale", and "bias"


@dataclass
class _Machine:
    """Runs a program on values that are arrays, known, or pending.

    Without entries it plans: it computes what the merged chains need. With entries it takes that from the variables.
    """

    variables: dict[Path, Any]
    entries: Sequence[_Entry] | None
    planned: list[_Entry] = field(default_factory=list)
    computed: list[dict[str, Any]] = field(default_factory=list)
    read: set[Path] = field(default_factory=set)
    used: int = 0

    def run_program(self, program: Program, args: Any) -> list[Any]:
        inputs: list[Any] = [
            self._variable(path, shape_of(v)) for path, v in zip(program.paths, program.jaxpr.invars, strict=False)
        ]
        inputs += jax.tree.leaves(args)
        # The network's own types were checked when it was traced; kernels and what is merged into them may differ.
        with jax.numpy_dtype_promotion("standard"):
            outputs = self.run(program.jaxpr, [Known.constant(value) for value in program.constants], inputs)
            return [self.array(value) for value in outputs]

    def run(self, jaxpr: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *inputs], strict=True))
        readers = uses(jaxpr)

        def read(v: Any) -> Any:
            if isinstance(v, Literal):
                return Known.constant(v.val)
            value = values[v]
            if readers[v] > 1 and isinstance(value, Pending):
                # Merged into each of its readers, a layer would run once for each.
                value = values[v] = self.array(value)
            return value

        for equation in jaxpr.eqns:
            outputs = self.step(equation, [read(v) for v in equation.invars])
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def step(self, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
        if (called := inlined(equation)) is not None:
            return self.run(called.jaxpr, [Known.constant(value) for value in called.consts], inputs)
        if all(isinstance(value, Known) for value in inputs):
            return evaluate(equation, inputs)
        if equation.primitive.name == "scan" and _holds_linear(equation.params["jaxpr"].jaxpr):
            return self.unrolled(equation, inputs)
        if (pending := self.absorbed(equation, inputs)) is not None:
            return [pending]
        arrays = [value if isinstance(value, Known) else self.array(value) for value in inputs]
        linear = linear_operation(equation, arrays, lambda *values: bind(equation, values)[0])
        if linear is not None:
            output = equation.outvars[0]
            return [Pending.of(linear, shape_of(output), dtype_of(output))]
        return bind(equation, [self.array(value) for value in arrays])

    def absorbed(self, equation: JaxprEqn, inputs: list[Any]) -> Pending | None:
        """The pending value that the equation gives; None where it does something else."""
        name, output = equation.primitive.name, equation.outvars[0]
        floating = jnp.issubdtype(dtype_of(output), jnp.floating)
        if len(inputs) == 1 and isinstance(inputs[0], Pending):
            pending = inputs[0]
            if name == "convert_element_type" and floating:
                return replace(pending, dtype=dtype_of(output))
            if name == "transpose":
                return pending.transpose(equation.params["permutation"])
            if name == "reshape" and equation.params["dimensions"] is None:
                return pending.reshape(shape_of(output))
            return None
        if name not in ("add", "add_any", "sub", "mul", "div") or not floating:
            return None
        for value, known, reversed_operands in ((*inputs, False), (*reversed(inputs), True)):
            if isinstance(known, Known) and not isinstance(value, Known):
                if not isinstance(value, Pending):
                    if not known.names:
                        return None
                    value = Pending.of(value, value.shape, value.dtype)
                if value.seen != shape_of(output):
                    return None
                return value.absorb(name, known, reversed_operands=reversed_operands)
        return None

    def array(self, value: Any) -> Any:
        """The value itself, computed if it was waiting."""
        if isinstance(value, Known):
            return value.full
        if not isinstance(value, Pending):
            return value
        source, scale, offset = value.source, value.scale, value.offset
        merged = scale is not None and scale.names and (isinstance(source, Linear) or offset is not None)
        if merged:
            factor, term = self.entry(value)
        else:
            factor = None if scale is None else scale.value
            term = None if offset is None else offset.value
        if isinstance(source, Linear):
            result = source.run(factor if merged else source.kernel.full)
            factor = None if merged else factor
        else:
            result = source
        if factor is not None:
            result = result * factor
        return value.finish(result if term is None else result + term)

    def entry(self, value: Pending) -> tuple[Any, Any]:
        """The merged kernel (or scale) and the offset of a chain, and their place in the folded variables."""
        assert value.scale is not None
        source = value.source
        factor_name = "kernel" if isinstance(source, Linear) else "scale"
        if self.entries is not None:
            if self.used == len(self.entries) or factor_name not in self.entries[self.used].paths:
                raise ValueError(_ANOTHER_WAY)
            paths = self.entries[self.used].paths
            self.used += 1
            factor = jnp.asarray(self.variables[paths[factor_name]])
            term = None if value.offset is None else self.variables[paths["bias"]].reshape(value.offset.compact)
            return factor if isinstance(source, Linear) else factor.reshape(value.scale.compact), term
        norm = _layer(value.scale.names)
        home = _layer(source.kernel.names) if isinstance(source, Linear) else norm
        factor = source.scaled_kernel(value.scale) if isinstance(source, Linear) else value.scale.value
        term = None if value.offset is None else value.offset.value
        values = {factor_name: factor if isinstance(source, Linear) else jnp.squeeze(factor)}
        if term is not None:
            values["bias"] = jnp.squeeze(term)
        self.planned.append(_Entry("/".join(norm), {name: ("params", *home, name) for name in values}))
        self.computed.append(values)
        return factor, term

    def unrolled(self, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
        """A scan as the steps it stands for, so that each step's kernels are apart."""
        params = equation.params
        body, count, carried = params["jaxpr"], params["num_consts"], params["num_carry"]
        constants, carry, stacked = inputs[:count], inputs[count : count + carried], inputs[count + carried :]
        stacked = [self.array(value) if isinstance(value, Pending) else value for value in stacked]
        outputs: list[list[Any]] = []
        steps = range(params["length"])
        for i in reversed(steps) if params["reverse"] else steps:
            step = [_slice(value, i) for value in stacked]
            consts = [Known.constant(value) for value in body.consts]
            results = self.run(body.jaxpr, consts, [*constants, *carry, *step])
            carry = results[:carried]
            outputs.append([self.array(value) for value in results[carried:]])
        if params["reverse"]:
            outputs.reverse()
        return [*carry, *(jnp.stack(values) for values in zip(*outputs, strict=True))]

    def _variable(self, path: Path, shape: tuple[int, ...]) -> Known:
        def value() -> Any:
            self.read.add(path)
            return jnp.asarray(self.variables[path])

        return Known(shape, shape, frozenset([path]), value)


def _slice(value: Any, index: int) -> Any:
    if not isinstance(value, Known):
        return value[index]
    shape = value.shape[1:]
    names = frozenset((*path[:-1], str(index), path[-1]) for path in value.names)
    return Known(shape, shape, names, lambda: value.full[index])


def _holds_linear(jaxpr: Jaxpr) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            return True
        called = inlined(equation)
        if called is not None and _holds_linear(called.jaxpr):
            return True
    return False


def _layer(names: frozenset[Path]) -> Path:
    """The path of the module that the variables belong to, without the collection."""
    modules = sorted({path[1:-1] for path in names})
    common = modules[0]
    for module in modules[1:]:
        length = next((i for i, (a, b) in enumerate(zip(common, module, strict=False)) if a != b), None)
        common = common[: min(len(common), len(module)) if length is None else length]
    return common


def _still_read(
    program: Program, leaves: dict[Path, Any], planned: list[_Entry], arrays: list[dict[str, Any]], args: Any
) -> set[Path]:
    """The variables that the network still reads when the merged chains are there."""
    entries = _distinct(planned, set(leaves))
    for entry, values in zip(entries, arrays, strict=True):
        leaves = {**leaves, **{entry.paths[name]: value for name, value in values.items()}}
    machine = _Machine(leaves, entries)
    jax.eval_shape(lambda args: machine.run_program(program, args), args)
    return machine.read


def _distinct(entries: list[_Entry], taken: set[Path]) -> tuple[_Entry, ...]:
    """The entries with paths of their own: a module that is used twice has two kernels now."""
    result = []
    for entry in entries:
        paths = {}
        for name, path in entry.paths.items():
            number, free = 0, path
            while free in taken:
                number += 1
                free = (*path[:-1], f"{path[-1]}_{number}")
            taken.add(free)
            paths[name] = free
        result.append(_Entry(entry.norm, paths))
    return tuple(result)
