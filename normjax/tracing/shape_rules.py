"""What reshapes, slices, joins and lookups do to dimensions."""

import math
from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from normjax.tracing.dependencies import Rules, Tracer, fixed
from normjax.tracing.dimensions import FIXED, Dim, Labels, Value
from normjax.tracing.program import as_number, sizes_of

rules = Rules()


@rules("broadcast_in_dim")
def broadcast(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Dimensions that it makes go with whatever they meet."""
    value, axes, shape = inputs[0], equation.params["broadcast_dimensions"], sizes_of(equation.outvars[0])
    dims = [Dim(tracer.atoms.weak(size), value.null) for size in shape]
    for dim, axis in zip(value.dims, axes, strict=True):
        if len(dim.labels) == shape[axis]:
            dims[axis] = dim
        else:
            tracer.atoms.hold(dim.labels, "a broadcast repeats it", sized=False)
    return [Value(tuple(dims), value.null)]


@rules("transpose")
def transpose(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """The same dimensions in another order."""
    del tracer
    (value,) = inputs
    return [value._replace(dims=tuple(value.dims[axis] for axis in equation.params["permutation"]))]


@rules("squeeze")
def squeeze(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Dimensions of size 1 go."""
    (value,), gone = inputs, equation.params["dimensions"]
    for axis in gone:
        tracer.atoms.hold(value.dims[axis].labels, "squeezed", sized=False)
    return [value._replace(dims=tuple(dim for axis, dim in enumerate(value.dims) if axis not in gone))]


@rules("rev")
def rev(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """The same elements from the end on."""
    del tracer
    (value,) = inputs
    turned = equation.params["dimensions"]
    dims = (Dim(dim.labels[::-1], dim.zero) if axis in turned else dim for axis, dim in enumerate(value.dims))
    return [value._replace(dims=tuple(dims))]


@rules("reshape")
def reshape(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Splits and joins dimensions, of which one at most can lose elements."""
    value, shape = inputs[0], sizes_of(equation.outvars[0])
    if equation.params["dimensions"] is not None or 0 in shape:
        return tracer.unknown(equation, inputs)
    dims: list[Dim] = []
    for before, after in blocks(value.shape, shape):
        dims += _reshaped(tracer, [value.dims[axis] for axis in before], [shape[axis] for axis in after], value.null)
    return [Value(tuple(dims), value.null)]


def blocks(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """The smallest runs of dimensions that a reshape takes to each other.

    Example:
      >>> blocks((2, 4, 6), (8, 3, 2))
      [(range(0, 2), range(0, 1)), (range(2, 3), range(1, 3))]
    """
    found: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        start, goal = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (left := math.prod(before[start:i])) != (right := math.prod(after[goal:j])):
            i, j = (i + 1, j) if left < right else (i, j + 1)
        found.append((range(start, i), range(goal, j)))
    return found


def _reshaped(tracer: Tracer, dims: list[Dim], sizes: list[int], null: bool) -> list[Dim]:
    if len(dims) == len(sizes) == 1:
        return dims
    joined = _joined(tracer, dims)
    return _split(tracer, joined, sizes, null)


def _joined(tracer: Tracer, dims: list[Dim]) -> Dim:
    """Several dimensions as one."""
    live = [i for i, dim in enumerate(dims) if len(dim.labels) > 1 and (dim.labels != FIXED).any()]
    if len(live) > 1:
        # Those that a broadcast made can be kept whole at no loss.
        live = [i for i in live if (dims[i].labels > FIXED).any()]
    if len(live) > 1:
        live = []
    for i, dim in enumerate(dims):
        if i not in live:
            tracer.atoms.hold(dim.labels, "a reshape joins it with others", sized=False)
    shape = [len(dim.labels) for dim in dims]
    if not live:
        return Dim(np.full(int(np.prod(shape)), FIXED), zero=False)
    (only,) = live
    own = dims[only]
    labels = np.broadcast_to(own.labels.reshape([-1 if i == only else 1 for i in range(len(dims))]), shape)
    whole = own.origin if len(own.labels) == labels.size else None
    return Dim(labels.reshape(-1), own.zero, whole)


def _split(tracer: Tracer, dim: Dim, sizes: list[int], null: bool) -> list[Dim]:
    """One dimension as several."""
    plain = [Dim(np.full(size, FIXED), null) for size in sizes]
    if (dim.labels == FIXED).all() or not sizes:
        tracer.atoms.hold(dim.labels, "a reshape removes it", sized=False)
        return plain
    labels = dim.labels.reshape(sizes)
    for axis, size in enumerate(sizes):
        line = np.moveaxis(labels, axis, 0).reshape(size, -1)
        if (size > 1 or labels.size == 1) and (line == line[:, :1]).all():
            # Repeats along the others, as after a join; or the others have size 1.
            plain[axis] = Dim(line[:, 0], dim.zero, dim.origin if size == labels.size else None)
            return plain
    # Blocks of the first dimension go as a whole, as the groups of a group norm.
    first = next(axis for axis, size in enumerate(sizes) if size > 1)
    units = labels.reshape(sizes[first], -1)
    tied = tracer.atoms.tie(units[:, :-1], units[:, 1:], "a block with what is fixed")
    plain[first] = Dim(np.where((tied == FIXED).any(1), FIXED, units[:, 0]), dim.zero)
    return plain


@rules("concatenate")
def concatenate(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Along its dimension each part keeps its atoms; the others go together."""
    along = equation.params["dimension"]
    dims = []
    for axis in range(len(inputs[0].dims)):
        parts = [value.dims[axis] for value in inputs]
        zero = all(dim.zero for dim in parts)
        labels: Labels = parts[0].labels
        if axis == along:
            labels = np.concatenate([dim.labels for dim in parts])
        else:
            for dim in parts[1:]:
                labels = tracer.atoms.tie(labels, dim.labels, "joined to what is fixed")
        dims.append(Dim(labels, zero))
    return [Value(tuple(dims), all(value.null for value in inputs))]


@rules("stack")
def stack(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """A new dimension, along which values of the same dimensions lie."""
    stacked = inputs[0]
    for value in inputs[1:]:
        stacked = tracer.joined(stacked, value, "stacked on what is fixed")
    dims = [dim._replace(origin=None) for dim in stacked.dims]
    dims.insert(equation.params["axis"], Dim(np.full(len(inputs), FIXED), stacked.null))
    return [Value(tuple(dims), stacked.null)]


@rules("unstack")
def unstack(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """The values along a dimension, one by one."""
    (value,), axis = inputs, equation.params["axis"]
    tracer.atoms.hold(value.dims[axis].labels, "taken apart along it", sized=False)
    dims = tuple(dim._replace(origin=None) for i, dim in enumerate(value.dims) if i != axis)
    return [Value(dims, value.null) for _ in equation.outvars]


@rules("tile")
def tile(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Elements that repeat live or die together."""
    del tracer
    (value,), shape = inputs, sizes_of(equation.outvars[0])
    dims = []
    for dim, size in zip(value.dims, shape, strict=True):
        same = size == len(dim.labels)
        dims.append(Dim(np.resize(dim.labels, size), dim.zero, dim.origin if same else None))
    return [Value(tuple(dims), value.null)]


@rules("pad")
def pad(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Elements that are added go with whatever they meet."""
    value, filling = inputs
    dims = []
    for dim, padding in zip(value.dims, equation.params["padding_config"], strict=True):
        low, high, inside = map(as_number, padding)
        if low == high == inside == 0:
            dims.append(dim._replace(zero=dim.zero and filling.null, origin=None))
            continue
        if (dim.labels == FIXED).all() or inside or low < 0 or high < 0:
            tracer.atoms.hold(dim.labels, "padded inside or cut", sized=False)
            size = low + high + len(dim.labels) + inside * max(len(dim.labels) - 1, 0)
            dims.append(Dim(np.full(size, FIXED), zero=False))
            continue
        labels = np.concatenate([tracer.atoms.weak(low), dim.labels, tracer.atoms.weak(high)])
        dims.append(Dim(labels, dim.zero and filling.null))
    return [Value(tuple(dims), value.null and filling.null)]


@rules("slice")
def slice_(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Some of the elements."""
    del tracer
    (value,), params = inputs, equation.params
    strides = params["strides"] or (1,) * len(value.dims)
    dims = []
    for dim, low, high, stride in zip(
        value.dims, params["start_indices"], params["limit_indices"], strides, strict=True
    ):
        labels = dim.labels[low:high:stride]
        dims.append(Dim(labels, dim.zero, dim.origin if len(labels) == len(dim.labels) else None))
    return [value._replace(dims=tuple(dims))]


@rules("split")
def split(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """All elements, in parts."""
    del tracer
    (value,), along = inputs, equation.params["axis"]
    ends = np.cumsum([as_number(size) for size in equation.params["sizes"]])[:-1]
    return [
        Value(tuple(Dim(labels, dim.zero) if axis == along else dim for axis, dim in enumerate(value.dims)), value.null)
        for labels in np.split(value.dims[along].labels, ends)
    ]


@rules("iota", "random_bits")
def made(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Positions and noise, of which those are left that go with what is left."""
    for value in inputs:
        tracer.hold(value, "keys of noise", sized=False)
    return [Value(tuple(Dim(tracer.atoms.weak(size), zero=False) for size in sizes_of(equation.outvars[0])))]


@rules("random_seed", "random_wrap", "random_unwrap", "random_fold_in", "random_split", "axis_index", "platform_index")
def keys(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Keys and numbers that no variable decides."""
    for value in inputs:
        tracer.hold(value, "keys of noise", sized=False)
    return [fixed(sizes_of(v)) for v in equation.outvars]


@rules("dynamic_slice")
def dynamic_slice(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Keeps the dimensions of which it takes all."""
    value, shape = inputs[0], sizes_of(equation.outvars[0])
    return [
        Value(tuple(_whole(tracer, dim, size, "dynamic_slice") for dim, size in zip(value.dims, shape, strict=True)))
    ]


@rules("dynamic_update_slice")
def dynamic_update_slice(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Ties the dimensions of which it replaces all."""
    del equation
    value, update = inputs[:2]
    dims = []
    for dim, new in zip(value.dims, update.dims, strict=True):
        if len(dim.labels) == len(new.labels):
            labels = tracer.atoms.tie(dim.labels, new.labels, "replaced by what is fixed")
            dims.append(Dim(labels, dim.zero and new.zero))
            continue
        for part in (dim, new):
            tracer.atoms.hold(part.labels, "replaced in part", sized=False)
        dims.append(Dim(np.full(len(dim.labels), FIXED), zero=False))
    return [Value(tuple(dims))]


@rules("gather")
def gather(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Keeps the dimensions of which each lookup takes all, as the features of an embedding."""
    (value, indices), params = inputs, equation.params
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    tracer.hold(indices, "indices of a lookup", sized=False)
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(value.dims)) if axis not in gone]
    for axis in gone:
        tracer.atoms.hold(value.dims[axis].labels, "looked up", sized=False)
    dims = list(fixed(sizes_of(equation.outvars[0])).dims)
    for axis, place in zip(kept, numbers.offset_dims, strict=True):
        if indices.given and (origin := value.dims[axis].origin) is not None:
            tracer.produced.add(origin)
        dims[place] = _whole(tracer, value.dims[axis], as_number(sizes[axis]), "gather")
    return [Value(tuple(dims))]


def _whole(tracer: Tracer, dim: Dim, size: int, name: str) -> Dim:
    if size == len(dim.labels):
        return dim._replace(origin=None)
    tracer.atoms.hold(dim.labels, f"{name} takes a part of it", sized=False)
    return Dim(np.full(size, FIXED), zero=False)


@rules("all_gather", "all_gather_invariant")
def all_gather(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """The values of all devices, in a row."""
    params, outputs = equation.params, []
    along = params["all_gather_dimension"]
    for value, v in zip(inputs, equation.outvars, strict=True):
        row = Dim(np.full(sizes_of(v)[along], FIXED), zero=False)
        dims = list(value.dims)
        if params["tiled"]:
            tracer.atoms.hold(dims[along].labels, "gathered along it", sized=False)
            dims[along] = row
        else:
            dims.insert(along, row)
        outputs.append(Value(tuple(dims)))
    return outputs


@rules("sort", "top_k")
def sort(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Orders the elements of one dimension, the others stay."""
    along = equation.params.get("dimension", len(inputs[0].dims) - 1)
    for value in inputs:
        tracer.atoms.hold(value.dims[along].labels, f"{equation.primitive.name} orders it", sized=False)
    others = inputs[0]
    for value in inputs[1:]:
        others = tracer.joined(others, value, "sorted with what is fixed")
    outputs = []
    for v in equation.outvars:
        dims = list(others.dims)
        dims[along] = Dim(np.full(sizes_of(v)[along], FIXED), zero=False)
        outputs.append(Value(tuple(dims)))
    return outputs
