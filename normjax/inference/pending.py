"""A scale and an offset per channel that wait to be merged into the linear operation before them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn

from normjax.tracing import Known
from normjax.tracing.program import shape_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Linear:
    """A convolution or matrix product of the input with a kernel that is known."""

    run: Callable[[Any], Any]  # of a kernel: the outputs
    kernel: Known
    channels: tuple[tuple[int, int], ...]  # axes of the output and the axes of the kernel that they come from

    def scaled_kernel(self, scale: Known) -> Any:
        """The kernel that gives the outputs times ``scale``."""
        factor_shape = [1] * len(self.kernel.shape)
        for output, axis in self.channels:
            factor_shape[axis] = scale.compact[output]
        kernel = self.kernel.full
        return (kernel * scale.value.reshape(factor_shape)).astype(kernel.dtype)


@dataclass(frozen=True)
class Pending:
    """What ``source * scale + offset`` will be, seen through changes of layout and type.

    ``scale`` and ``offset`` have the layout of the source; None is 1, or 0.
    """

    source: Linear | Any  # or an array
    shape: Shape  # of the source
    dtype: Any
    scale: Known | None = None
    offset: Known | None = None
    order: tuple[int, ...] | None = None  # the axes of the source as they are seen, None where the shape changed
    seen: Shape = ()

    @classmethod
    def of(cls, source: Any, shape: Shape, dtype: Any) -> "Pending":
        return cls(source, shape, dtype, order=tuple(range(len(shape))), seen=shape)

    def absorb(self, operation: str, operand: Known, *, reversed_operands: bool) -> "Pending | None":
        """This value after an operation with a known one; None where it is no scale and offset per channel."""
        if operation == "div" and reversed_operands:
            return None
        known = self._in_source_layout(operand)
        if known is None:
            return None
        if operation == "mul":
            return replace(self, scale=_times(self.scale, known), offset=self.offset and _times(self.offset, known))
        if operation == "div":
            inverse = known.map(known.compact, lambda value: 1 / value)
            return replace(self, scale=_times(self.scale, inverse), offset=self.offset and _times(self.offset, inverse))
        if operation in ("add", "add_any"):
            return replace(self, offset=_plus(self.offset, known))
        negative = known.map(known.compact, jnp.negative)
        if not reversed_operands:
            return replace(self, offset=_plus(self.offset, negative))
        minus = Known.constant(np.full((1,) * len(self.shape), -1, np.float32))
        offset = self.offset.map(self.offset.compact, jnp.negative) if self.offset else None
        return replace(self, scale=_times(self.scale, minus), offset=_plus(offset, known))

    def transpose(self, permutation: Sequence[int]) -> "Pending | None":
        """The same with its axes permuted."""
        if self.order is None:
            return None
        return replace(
            self,
            order=tuple(self.order[axis] for axis in permutation),
            seen=tuple(self.seen[axis] for axis in permutation),
        )

    def reshape(self, shape: Shape) -> "Pending | None":
        """The same in another shape, if only axes in front of a last axis of channels change."""
        if self.order is not None and self.order != tuple(range(len(self.shape))):
            return None
        if self.channel_axes() != {len(self.shape) - 1} or shape[-1:] != self.shape[-1:]:
            return None
        return replace(self, order=None, seen=shape)

    def finish(self, value: Any) -> Any:
        """The source times scale plus offset, in the layout and type that is seen."""
        if self.order is None:
            value = value.reshape(self.seen)
        elif self.order != tuple(range(len(self.order))):
            value = value.transpose(self.order)
        return value.astype(self.dtype)

    def channel_axes(self) -> set[int]:
        """The axes of the source along which scale and offset may vary."""
        if isinstance(self.source, Linear):
            return {output for output, _ in self.source.channels}
        return set(range(1, len(self.shape)))  # any but that of the examples

    def _in_source_layout(self, operand: Known) -> Known | None:
        compact = operand.compact or (1,) * len(self.seen)
        if len(compact) != len(self.seen):
            return None
        if self.order is None:
            if any(size != 1 for size in compact[:-1]):
                return None
            layout = (1,) * (len(self.shape) - 1) + compact[-1:]
            known = operand.map(layout, lambda value: value.reshape(layout))
        else:
            back = tuple(int(axis) for axis in np.argsort(self.order))
            layout = tuple(compact[axis] for axis in back)
            known = operand.map(layout, lambda value: value.reshape(compact).transpose(back))
        varying = {axis for axis, size in enumerate(layout) if size != 1}
        return known if varying <= self.channel_axes() else None


def linear_operation(equation: JaxprEqn, inputs: Sequence[Any], run: Callable[..., Any]) -> Linear | None:
    """The convolution or product of an array with a known kernel; None where the equation is no such thing.

    Args:
      equation: any equation.
      inputs: an array or a Known for each of its inputs.
      run: runs the equation on arrays.
    """
    name = equation.primitive.name
    if name == "conv_general_dilated" and isinstance(inputs[1], Known) and not isinstance(inputs[0], Known):
        layout = equation.params["dimension_numbers"]
        if equation.params["batch_group_count"] != 1:
            return None
        axes = ((layout.out_spec[1], layout.rhs_spec[0]),)
        return Linear(lambda kernel: run(inputs[0], kernel), inputs[1], axes)
    if name != "dot_general" or isinstance(inputs[0], Known) == isinstance(inputs[1], Known):
        return None
    contracted, batch = equation.params["dimension_numbers"]
    if batch[0]:
        return None
    ranks = (len(shape_of(v)) for v in equation.invars)
    free = [
        [axis for axis in range(rank) if axis not in summed] for rank, summed in zip(ranks, contracted, strict=True)
    ]
    if isinstance(inputs[1], Known):
        channels = tuple((len(free[0]) + i, axis) for i, axis in enumerate(free[1]))
        return Linear(lambda kernel: run(inputs[0], kernel), inputs[1], channels)
    return Linear(lambda kernel: run(kernel, inputs[1]), inputs[0], tuple(enumerate(free[0])))


def _times(a: Known | None, b: Known) -> Known:
    return b if a is None else a.combine(b, lambda x, y: x * y)


def _plus(a: Known | None, b: Known) -> Known:
    return b if a is None else a.combine(b, lambda x, y: x + y)
