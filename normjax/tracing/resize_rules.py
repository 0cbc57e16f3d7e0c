"""The primitives whose parameters hold sizes: how each runs with what is left."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import JaxprEqn

from normjax.tracing.dimensions import Dim, Value
from normjax.tracing.known import bind
from normjax.tracing.program import shape_of


class Step(NamedTuple):
    """An equation that is run with fewer elements than it was traced with."""

    equation: JaxprEqn
    inputs: list[Any]  # with what is left
    before: list[Value]  # the inputs as they were traced
    after: list[Value]  # the outputs as they were traced
    alive: Callable[[Dim], np.ndarray]  # which elements are left

    def size(self, dim: Dim) -> int:
        """How many elements are left."""
        return int(self.alive(dim).sum())

    def shape(self) -> tuple[int, ...]:
        """What is left of the sizes of the output."""
        traced = shape_of(self.equation.outvars[0])
        # Where all is left a size may be open.
        return tuple(
            size if self.alive(dim).all() else self.size(dim)
            for size, dim in zip(traced, self.after[0].dims, strict=True)
        )

    def run(self, **changed: Any) -> list[Any]:
        """The outputs with some parameters changed."""
        primitive = self.equation.primitive
        outputs = primitive.bind(*self.inputs, **{**self.equation.params, **changed})
        return list(outputs) if primitive.multiple_results else [outputs]


def sizes(value: Value, alive: Callable[[Dim], np.ndarray]) -> tuple[int, ...]:
    """What is left of the sizes of a value."""
    return tuple(int(alive(dim).sum()) for dim in value.dims)


def cut(array: Any, alive: Sequence[np.ndarray]) -> Any:
    """What is left of an array."""
    for axis, left in enumerate(alive):
        if not left.all():
            array = jnp.take(array, np.flatnonzero(left), axis)
    return array


def grow(array: Any, alive: Sequence[np.ndarray]) -> Any:
    """The array before it was cut, with zeros for what has gone."""
    for axis, left in enumerate(alive):
        if not left.all():
            whole = jnp.zeros((*array.shape[:axis], len(left), *array.shape[axis + 1 :]), array.dtype)
            array = whole.at[(slice(None),) * axis + (np.flatnonzero(left),)].set(array)
    return array


def _slice(step: Step) -> list[Any]:
    params = step.equation.params
    starts, limits = list(params["start_indices"]), list(params["limit_indices"])
    strides = list(params["strides"] or (1,) * len(starts))
    array = step.inputs[0]
    for axis, dim in enumerate(step.before[0].dims):
        left = step.alive(dim)
        if left.all():
            continue
        place = np.cumsum(left) - 1  # of those that are left
        taken = np.arange(len(left))[starts[axis] : limits[axis] : strides[axis]]
        taken = place[taken[left[taken]]]
        if (np.diff(taken) != 1).any():
            array, taken = jnp.take(array, taken, axis), np.arange(len(taken))
        starts[axis] = int(taken[0]) if len(taken) else 0
        limits[axis], strides[axis] = starts[axis] + len(taken), 1
    return [lax.slice(array, starts, limits, strides)]


def _pad(step: Step) -> list[Any]:
    config = []
    places = zip(step.before[0].dims, step.after[0].dims, step.equation.params["padding_config"], strict=True)
    for dim, padded, (low, high, inside) in places:
        left = step.alive(padded)
        if left.all():
            config.append((low, high, inside))
        else:  # nothing lies between, or is cut off
            config.append((int(left[:low].sum()), int(left[low + len(dim.labels) :].sum()), 0))
    return step.run(padding_config=tuple(config))


def _gather(step: Step) -> list[Any]:
    places = zip(step.before[0].dims, step.equation.params["slice_sizes"], strict=True)
    # A dimension of which all was taken loses what has gone, the others are whole.
    taken = [step.size(dim) if size == len(dim.labels) else size for dim, size in places]
    return step.run(slice_sizes=tuple(taken))


def _convolution(step: Step) -> list[Any]:
    params = step.equation.params
    channels = step.before[0].dims[params["dimension_numbers"].lhs_spec[1]]
    # Of one group channels have gone, of several whole groups.
    groups = params["feature_group_count"]
    left = 1 if groups == 1 else groups * step.size(channels) // len(channels.labels)
    return step.run(feature_group_count=left)


def _split(step: Step) -> list[Any]:
    axis = step.equation.params["axis"]
    return step.run(sizes=tuple(step.size(value.dims[axis]) for value in step.after))


def _iota(step: Step) -> list[Any]:
    # Numbered as they were.
    return [cut(bind(step.equation, step.inputs)[0], [step.alive(dim) for dim in step.after[0].dims])]


RESIZED: dict[str, Callable[[Step], list[Any]]] = {
    "broadcast_in_dim": lambda step: step.run(shape=step.shape()),
    "conv_general_dilated": _convolution,
    "dynamic_slice": lambda step: step.run(slice_sizes=step.shape()),
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "random_bits": lambda step: step.run(shape=step.shape()),
    "reshape": lambda step: step.run(new_sizes=step.shape()),
    "slice": _slice,
    "split": _split,
}
