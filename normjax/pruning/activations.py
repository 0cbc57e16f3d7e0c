"""What the neurons of a network do on data: their activations, and how the loss depends on them."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn

from normjax.tracing import capture, leaf_paths
from normjax.tracing.dependencies import Frame, Tap, Tracer
from normjax.tracing.follow import follow
from normjax.tracing.known import bind
from normjax.tracing.neurons import Neurons
from normjax.tracing.program import inlined, interpret

Loss = Callable[[Any, Any], jax.Array]  # outputs and targets -> the loss of each example


class ActivationSums(NamedTuple):
    """Of the neurons of a group, over all examples and positions, (neurons,)."""

    examples: int
    values: float  # of each neuron
    mean: np.ndarray
    m2: np.ndarray  # sums of squared deviations from the mean
    absolute: np.ndarray  # sums of magnitudes
    zeros: np.ndarray  # how many values are 0
    taylor: np.ndarray  # sum over examples of |mean over positions of a dL/da|
    gate: np.ndarray  # sum over examples of (dL/dg)^2, g = 1 a factor of the neuron


class _Read(NamedTuple):
    """A place where a kernel reads the neurons of one group or several."""

    tap: Tap
    groups: dict[str, np.ndarray]  # which neuron each element of the dimension is; -1: none of the group

    def elements(self, group: str) -> np.ndarray:
        """Those of each neuron, (neurons, elements): several where a feature map was flattened."""
        number = self.groups[group]
        chosen = np.flatnonzero(number >= 0)
        return chosen[np.argsort(number[chosen], kind="stable")].reshape(number.max() + 1, -1)


class ActivationProbe:
    r"""Measures what the neurons of a network do, in one pass forward and back over some data.

    Wherever a kernel reads activations, they are multiplied by gates g = 1, one for each neuron. Each example goes
    its own way, wherever the network has the examples:

    .. math:: \partial L / \partial g_i = \sum_{hw} a_i\, \partial L / \partial a_i .

    What several kernels read of a neuron adds up. A neuron that is read in a loop or a branch only is not measured.
    One program is compiled for each size of batch, and used again whatever the variables.

    Args:
      model: as for ``trace``.
      neurons: as ``trace`` found them.
      loss: of each example, given outputs and targets.
      **options: keyword arguments of the model at inference, for example ``train=False``.
    """

    def __init__(self, model: Any, neurons: Neurons, loss: Loss, **options: Any):
        self._model, self._neurons, self._loss, self._options = model, neurons, loss, options
        self._programs: dict[Any, tuple[Callable[..., Any], list[_Read]]] = {}

    def measure(self, variables: Any, batches: Iterable[tuple[Any, Any]]) -> dict[str, ActivationSums]:
        """Sums for each group that is measured.

        Args:
          variables: of the model.
          batches: pairs of inputs and targets, arrays with the examples along the first dimension. The network and the
            loss get one example at a time.

        Raises:
          ValueError: there is no batch.
        """
        totals: dict[str, ActivationSums] = {}
        seen = False
        for inputs, targets in batches:
            seen, shape = True, jnp.shape(inputs)
            if shape[1:] not in self._programs:
                self._programs[shape[1:]] = self._compile(variables, inputs)
            run, reads = self._programs[shape[1:]]
            gradients, values = jax.device_get(run(variables, inputs, targets))
            for name, sums in _by_neuron(self._neurons, reads, gradients, values, shape[0]).items():
                totals[name] = sums if name not in totals else _together(totals[name], sums)
        if not seen:
            raise ValueError("batches is empty; scores of activations need one batch or more.")
        return totals

    def _compile(self, variables: Any, inputs: Any) -> tuple[Callable[..., Any], list[_Read]]:
        shapes = jax.eval_shape(lambda tree: tree, variables)
        program = capture(self._model.apply, shapes, inputs[:1], **self._options)
        tracer, _, frame = follow(program)
        reads = _reads(self._neurons, tracer)

        def of_one(variables: Any, example: jax.Array, target: Any) -> Any:
            def loss(gates: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
                gated = _Gated(reads, gates)
                whole = ClosedJaxpr(program.jaxpr, program.constants)
                outputs = gated.run(whole, frame, [*leaf_paths(variables).values(), example])
                tree = jax.tree.unflatten(jax.tree.structure(program.output), outputs)
                return self._loss(tree, target).sum(), jax.lax.stop_gradient(gated.seen)

            return jax.grad(loss, has_aux=True)([jnp.ones(_gate_shape(read.tap)) for read in reads])

        def run(variables: Any, inputs: Any, targets: Any) -> Any:
            alone = jax.tree.map(lambda leaf: leaf[:, None], (inputs, targets))
            gradients, seen = jax.vmap(of_one, (None, 0, 0))(variables, *alone)
            flat = [g.reshape(len(g), -1) for g in gradients]
            return flat, [_values(a, read.tap.axis + 1) for a, read in zip(seen, reads, strict=True)]

        return jax.jit(run), reads


def _reads(neurons: Neurons, tracer: Tracer) -> list[_Read]:
    """Where kernels read neurons."""
    found = tracer.atoms.components()
    numbers: dict[int, tuple[str, int]] = {}
    for group in neurons.groups:
        member = group.members[0]
        of_element = found.of(tracer.variables[member.path].dims[member.axis].labels)
        numbers |= {int(of_element[index]): (group.name, i) for i, index in enumerate(member.indices[:, 0])}
    reads = []
    for tap in tracer.taps:
        places = [numbers.get(component, ("", -1)) for component in found.of(tap.dim.labels).tolist()]
        groups = {
            name: np.array([number if of == name else -1 for of, number in places])
            for name in dict.fromkeys(name for name, _ in places if name)
        }
        if groups:
            reads.append(_Read(tap, groups))
    return reads


def reader(
    model: Any, variables: Any, neurons: Neurons, group: str, inputs: Any, *, alone: bool = False, **options: Any
) -> Any:
    """A function of variables and inputs that gives the activations of a group, (examples, neurons, positions).

    Args:
      model: as for ``trace``.
      variables: its variables, or their shapes.
      neurons: as ``trace`` found them.
      group: its name.
      inputs: with the examples along the first dimension, for its shape.
      alone: give None where the neurons are not read in one place alone, outside of loops.
      **options: keyword arguments of the model at inference.

    Raises:
      ValueError: there is no such group, or its neurons are read in loops or branches only.
    """
    names = [found.name for found in neurons.groups]
    if group not in names:
        raise ValueError(f"group={group!r} is no group of neurons of this network; use {', '.join(names)}.")
    program = capture(model.apply, jax.eval_shape(lambda tree: tree, variables), inputs[:1], **options)
    tracer, _, frame = follow(program)
    places = [read for read in _reads(neurons, tracer) if group in read.groups]
    if alone and len(places) != 1:
        return None
    read = next(iter(places), None)
    if read is None:
        raise ValueError(f"the activations of {group} cannot be followed.")
    order = read.elements(group)

    def of_one(variables: Any, example: jax.Array) -> jax.Array:
        watched, whole = _Gated([read], [jnp.ones(())]), ClosedJaxpr(program.jaxpr, program.constants)
        watched.run(whole, frame, [*leaf_paths(variables).values(), example])
        a = jnp.moveaxis(watched.seen[0], read.tap.axis, 0)
        return a.reshape(len(a), -1)[order].reshape(len(order), -1)

    return lambda variables, inputs: jax.vmap(of_one, (None, 0))(variables, inputs[:, None])


def _gate_shape(tap: Tap) -> tuple[int, ...]:
    """One gate for each element."""
    return tuple(size if axis == tap.axis else 1 for axis, size in enumerate(tap.shape))


class _Gated:
    """Runs a program with gates where kernels read activations."""

    def __init__(self, reads: Sequence[_Read], gates: Sequence[jax.Array]):
        self._gates = {(id(r.tap.frame), r.tap.equation, r.tap.operand): g for r, g in zip(reads, gates, strict=True)}
        self._order = {place: number for number, place in enumerate(self._gates)}
        self.seen: list[Any] = [None] * len(self._gates)

    def run(self, program: ClosedJaxpr, frame: Frame, inputs: Sequence[Any]) -> list[Any]:
        """The outputs; what was read is in ``seen``."""
        return interpret(program.jaxpr, [*program.consts, *inputs], partial(self._step, frame))

    def _step(self, frame: Frame, number: int, equation: JaxprEqn, operands: list[Any]) -> list[Any]:
        for index, operand in enumerate(operands):
            place = (id(frame), number, index)
            if place in self._gates:
                self.seen[self._order[place]] = operand
                operands[index] = operand * self._gates[place].astype(operand.dtype)
        called, inner = inlined(equation), frame.calls.get(number, [])
        if called is not None and self._within(inner[0]):
            return self.run(called, inner[0], operands)
        return bind(equation, operands)

    def _within(self, frame: Frame) -> bool:
        """Whether there is a gate in a call, or in one that it makes."""
        inside = any(key == id(frame) for key, *_ in self._gates)
        return inside or any(self._within(inner) for calls in frame.calls.values() for inner in calls[:1])


def _values(a: jax.Array, axis: int) -> tuple[jax.Array, ...]:
    """Mean, squared deviations, magnitudes and zeros of each element of a dimension, over all others."""
    a = a.astype(jnp.float32)
    others = tuple(i for i in range(a.ndim) if i != axis)
    mean = a.mean(others, keepdims=True)
    return mean.reshape(-1), ((a - mean) ** 2).sum(others), jnp.abs(a).sum(others), (a == 0).sum(others)


def _by_neuron(
    neurons: Neurons, reads: Sequence[_Read], gradients: Any, values: Any, examples: int
) -> dict[str, ActivationSums]:
    """Sums of one batch, of all places where a neuron is read."""
    sums: dict[str, ActivationSums] = {}
    for group in neurons.groups:
        taylor = gate = np.zeros((1, group.size))
        parts: list[ActivationSums] = []
        for read, gradient, of_element in zip(reads, gradients, values, strict=True):
            if group.name not in read.groups:
                continue
            order = read.elements(group.name)
            positions = math.prod(read.tap.shape) // read.tap.shape[read.tap.axis]  # of an example
            each = examples * positions
            change = np.asarray(gradient, np.float64)[:, order].sum(2)
            gate, taylor = gate + change, taylor + change / (positions * order.shape[1])
            mean, m2, absolute, zeros = (np.asarray(x, np.float64)[order] for x in of_element)
            middle = mean.mean(1)
            spread = m2.sum(1) + each * ((mean - middle[:, None]) ** 2).sum(1)
            none = np.zeros(group.size)
            parts.append(
                ActivationSums(
                    examples, each * order.shape[1], middle, spread, absolute.sum(1), zeros.sum(1), none, none
                )
            )
        if parts:
            whole = reduce(_together, parts)
            sums[group.name] = whole._replace(examples=examples, taylor=np.abs(taylor).sum(0), gate=(gate**2).sum(0))
    return sums


def _together(a: ActivationSums, b: ActivationSums) -> ActivationSums:
    """Sums of both, as ``Moments`` are merged."""
    values = a.values + b.values
    delta = b.mean - a.mean
    return ActivationSums(
        a.examples + b.examples,
        values,
        a.mean + delta * b.values / values,
        a.m2 + b.m2 + delta**2 * a.values * b.values / values,
        a.absolute + b.absolute,
        a.zeros + b.zeros,
        a.taylor + b.taylor,
        a.gate + b.gate,
    )
