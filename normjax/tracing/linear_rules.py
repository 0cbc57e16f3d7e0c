"""What sums, products and convolutions do to dimensions."""

from collections.abc import Sequence

import numpy as np
from jax.extend.core import JaxprEqn

from normjax.tracing.dependencies import Rules, Tracer
from normjax.tracing.dimensions import FIXED, Dim, Value
from normjax.tracing.program import sizes_of

rules = Rules()

# Of each element alone; 0 where their argument is 0.
_ODD = {"abs", "asin", "asinh", "atan", "atanh", "cbrt", "ceil", "conj", "convert_element_type", "copy", "copy_p"}
_ODD |= {"erf", "erf_inv", "expm1", "floor", "imag", "integer_pow", "log1p", "neg", "real", "reduce_precision"}
_ODD |= {"round", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "tan", "tanh", "to_edtype", "from_edtype"}
_ALL = {"add", "add_any", "and", "complex", "max", "min", "nextafter", "or", "sub", "xor", "ne", "lt", "gt"}
_ANY = {"mul"}
_FIRST = {"div", "rem", "atan2", "shift_left", "shift_right_arithmetic", "shift_right_logical"}
_OTHER = {"acos", "acosh", "bessel_i0e", "bessel_i1e", "bitcast_convert_type", "clamp", "cos", "cosh", "digamma", "eq"}
_OTHER |= {"erfc", "exp", "exp2", "ge", "igamma", "igammac", "is_finite", "le", "lgamma", "log", "logistic", "not"}
_OTHER |= {"nan_to_num", "polygamma", "population_count", "clz", "pow", "regularized_incomplete_beta", "rsqrt", "zeta"}


@rules(*_ODD, *_ALL, *_ANY, *_FIRST, *_OTHER, "select_n")
def elementwise(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Elements at the same place live or die together."""
    name, shape = equation.primitive.name, sizes_of(equation.outvars[0])
    if name == "integer_pow" and equation.params["y"] <= 0:
        name = "pow"  # not 0 where its argument is
    meant = inputs[1:] if name == "select_n" else inputs  # what the output is made of
    null = _zero(name, [value.null for value in meant])
    dims = []
    for axis, size in enumerate(shape):
        # Scalars and dimensions of size 1 repeat.
        whole = [value for value in inputs if value.dims and len(value.dims[axis].labels) == size]
        for value in inputs:
            if value.dims and len(value.dims[axis].labels) != size:
                tracer.atoms.hold(value.dims[axis].labels, f"{name} repeats it", sized=False)
        labels = whole[0].dims[axis].labels
        for value in whole[1:]:
            labels = tracer.atoms.tie(labels, value.dims[axis].labels, f"{name} with what is fixed")
        # What repeats is 0 where it is 0 everywhere.
        own = [value.dims[axis] if any(value is w for w in whole) else None for value in meant]
        zeros = [value.null or (dim is not None and dim.zero) for value, dim in zip(meant, own, strict=True)]
        trues = [dim is not None and dim.true for dim in own]
        dims.append(Dim(labels, _zero(name, zeros), true=_true(name, zeros, trues)))
    # The output is still the variable if all else is smaller, as a kernel divided by its norm. Where a batch has one
    # example, activations are no larger than a bias.
    carriers = [value for value in inputs if len(value.dims) == len(shape) and value.shape == shape]
    if carriers and not any(value.given for value in carriers):
        best = max(carriers, key=lambda value: sum(dim.origin is not None for dim in value.dims))
        dims = [dim._replace(origin=own.origin) for dim, own in zip(dims, best.dims, strict=True)]
    return [Value(tuple(dims), null)]


def _zero(name: str, zeros: Sequence[bool]) -> bool:
    """Whether the output is 0 where the given inputs are."""
    if name in _ODD or name in _FIRST:
        return zeros[0]
    if name in _ANY:
        return any(zeros)
    return (name in _ALL or name == "select_n") and all(zeros)


def _true(name: str, zeros: Sequence[bool], trues: Sequence[bool]) -> bool:
    """Whether the output is True where the inputs are 0 or True."""
    if name in ("le", "ge", "eq", "is_finite", "not"):
        return all(zeros)
    return any(trues) if name == "or" else name in ("and", "select_n", "convert_element_type", "copy") and all(trues)


@rules(
    "reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"
)
def reduction(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """A sum does not change when elements go that are 0, nor does a conjunction by those that are True."""
    (value,), axes, name = inputs, equation.params["axes"], equation.primitive.name
    for axis in axes:
        dim = value.dims[axis]
        if not (dim.true if name == "reduce_and" else dim.zero and name in ("reduce_sum", "reduce_or")):
            tracer.atoms.hold(value.dims[axis].labels, f"{name} over it")
    dims = tuple(dim for axis, dim in enumerate(value.dims) if axis not in axes)
    return [Value(dims, value.null and name != "reduce_prod")]


@rules("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def cumulative(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Each element depends on those before it."""
    (value,), axis, name = inputs, equation.params["axis"], equation.primitive.name
    if not (name == "cumsum" and value.dims[axis].zero):
        tracer.atoms.hold(value.dims[axis].labels, f"{name} along it")
    dims = [dim._replace(zero=False, origin=None) if i == axis else dim for i, dim in enumerate(value.dims)]
    return [Value(tuple(dims))]


@rules("dot_general")
def product(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Ties the dimensions it sums over; the others are those of the output."""
    (left_summed, right_summed), (left_batch, right_batch) = equation.params["dimension_numbers"]
    left, right = inputs
    for i, j in zip(left_summed, right_summed, strict=True):
        _summed(tracer, inputs, (i, j), "dot_general")
    dims = [
        Dim(tracer.atoms.tie(a.labels, b.labels, "a product with what is fixed"), a.zero or b.zero)
        for a, b in zip((left.dims[i] for i in left_batch), (right.dims[j] for j in right_batch), strict=True)
    ]
    for value, gone in ((left, (*left_summed, *left_batch)), (right, (*right_summed, *right_batch))):
        free = [dim for axis, dim in enumerate(value.dims) if axis not in gone]
        tracer.produced.update(dim.origin for dim in free if dim.origin is not None)
        dims += [dim._replace(origin=None) for dim in free]
    return [Value(tuple(dims), left.null or right.null)]


def _summed(tracer: Tracer, inputs: Sequence[Value], axes: tuple[int, int], name: str) -> None:
    dims = [value.dims[axis] for value, axis in zip(inputs, axes, strict=True)]
    labels = tracer.atoms.tie(dims[0].labels, dims[1].labels, f"{name} over what is fixed")
    if not any(dim.zero for dim in dims):
        tracer.atoms.hold(labels, f"{name} over it")
    tracer.consumed.update(dim.origin for dim in dims if dim.origin is not None)
    for operand, (dim, other) in enumerate((dims, dims[::-1])):
        if dim.origin is None and other.origin is not None:
            tracer.tap(operand, axes[operand], inputs[operand])


@rules("conv_general_dilated")
def convolution(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Ties the channels it sums over; of grouped channels a whole group is the unit."""
    (image, kernel), params = inputs, equation.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    if params["batch_group_count"] != 1:
        return tracer.unknown(equation, inputs)
    for value, spec in ((image, numbers.lhs_spec), (kernel, numbers.rhs_spec)):
        for axis in spec[2:]:
            tracer.atoms.hold(value.dims[axis].labels, "a convolution slides along it", sized=False)
    channels, features = image.dims[numbers.lhs_spec[1]], kernel.dims[numbers.rhs_spec[0]]
    summed = kernel.dims[numbers.rhs_spec[1]]
    labels, zero = features.labels, features.zero
    if groups == 1:
        _summed(tracer, inputs, (numbers.lhs_spec[1], numbers.rhs_spec[1]), "a convolution")
    else:
        tracer.atoms.hold(summed.labels, "channels of a group", sized=False)
        inside = channels.labels.reshape(groups, -1)
        outside = features.labels.reshape(groups, -1)
        unit = np.concatenate([inside, outside], 1)
        tied = tracer.atoms.tie(unit[:, :-1], unit[:, 1:], "a group with what is fixed")
        # Some element of a group may be fixed, and then the group is.
        labels = np.where((tied == FIXED).any(1, keepdims=True), FIXED, outside).reshape(-1)
        zero = zero or channels.zero
    if features.origin is not None:
        tracer.produced.add(features.origin)
    batch = image.dims[numbers.lhs_spec[0]]
    dims = [Dim(np.full(size, FIXED), zero=False) for size in sizes_of(equation.outvars[0])]
    dims[numbers.out_spec[0]] = batch._replace(origin=None)
    dims[numbers.out_spec[1]] = Dim(labels, zero)
    return [Value(tuple(dims), image.null or kernel.null)]


@rules("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def window(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Pooling keeps the dimensions along which its window has size 1."""
    params = equation.params
    value = inputs[0]
    dims = []
    for axis, (dim, size) in enumerate(zip(value.dims, sizes_of(equation.outvars[0]), strict=True)):
        plain = (1, 1, (0, 0), 1, 1)
        of_axis = (
            params["window_dimensions"][axis],
            params["window_strides"][axis],
            tuple(params["padding"][axis]),
            params["base_dilation"][axis],
            params["window_dilation"][axis],
        )
        if of_axis == plain:
            dims.append(dim._replace(origin=None))
        else:
            tracer.atoms.hold(dim.labels, "a window slides along it", sized=False)
            dims.append(Dim(np.full(size, FIXED), zero=False))
    return [Value(tuple(dims))]


@rules("psum", "pmax", "pmin", "psum_invariant", "pvary", "pbroadcast", "ppermute", "optimization_barrier")
@rules("pcast", "copy_to_invariant", "sharding_constraint", "reduced_vary_cast")
def passed(tracer: Tracer, equation: JaxprEqn, inputs: Sequence[Value]) -> list[Value]:
    """Values that only go elsewhere."""
    del tracer, equation
    return list(inputs)
