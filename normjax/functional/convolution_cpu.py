"""How two-dimensional convolutions are computed on CPUs.

XLA for CPU gives a two-dimensional convolution with more than 16 channels to YNNPACK, which takes up to five times as
long as Eigen, the library it uses otherwise. It uses Eigen if the convolution is one-dimensional, or if the result has
more rows than the input; inside a loop it does so only if the dimensions are in Eigen's order.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

# With fewer multiply-adds than this, compiling another form costs more than it saves.
_SMALL = 2**21
_YNNPACK_CHANNELS = 16  # a convolution with at most so many does not go to YNNPACK
# A chunk of a kernel's gradient: so many images, or fewer if they have more than so many positions together.
_IMAGES, _POSITIONS = 8, 2**13

_NO_PADDING = ((0, 0), (0, 0))
_1D = lax.ConvDimensionNumbers((0, 2, 1), (2, 1, 0), (0, 2, 1))
_2D = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))


class _Window(NamedTuple):
    """How the window moves, for rows and columns (or for rows alone)."""

    strides: Sequence[int]
    padding: Sequence[tuple[int, int]]
    dilation: Sequence[int]  # of the kernel
    precision: Any

    def convolve(self, x: Array, kernel: Array) -> Array:
        """By XLA's own form; x is (batch, *positions, channels), the kernel (*positions, channels, outputs)."""
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.padding,
            rhs_dilation=self.dilation,
            dimension_numbers=_1D if x.ndim == 3 else _2D,
            precision=self.precision,
        )


def convolve_on_cpu(lhs: Array, rhs: Array, **params: Any) -> Array:
    """``jax.lax.conv_general_dilated_p.bind`` in the form that is fastest on CPUs.

    Args:
      lhs: input, dimensions in any order.
      rhs: kernel.
      **params: of the primitive.

    Returns:
      The convolution. Sums are in float32 for half-precision input.
    """
    as_it_is = partial(lax.conv_general_dilated_p.bind, **params)
    form = _form(lhs, rhs, params) if _is_plain(lhs, rhs, params) else None
    if form is None:
        return as_it_is(lhs, rhs)
    dims: lax.ConvDimensionNumbers = params["dimension_numbers"]
    outputs, channels, *positions = dims.rhs_spec
    x = lax.transpose(lhs.astype(jnp.float32), _channels_last(dims.lhs_spec))
    kernel = lax.transpose(rhs.astype(jnp.float32), (*positions, channels, outputs))
    # Negative padding is cut off here: inside a loop XLA for CPU leaves it to Eigen, whose results are wrong then.
    cut = [(min(low, 0), min(high, 0), 0) for low, high in params["padding"]]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *cut, (0, 0, 0)))
    padding = tuple((max(low, 0), max(high, 0)) for low, high in params["padding"])
    y = form(x, kernel, _Window(params["window_strides"], padding, params["rhs_dilation"], params["precision"]))
    order = _channels_last(dims.out_spec)
    y = lax.transpose(y, [order.index(i) for i in range(4)])
    return y.astype(jax.eval_shape(as_it_is, lhs, rhs).dtype)


def _channels_last(spec: Sequence[int]) -> tuple[int, ...]:
    batch, channels, *positions = spec
    return (batch, *positions, channels)


def _is_plain(lhs: Array, rhs: Array, params: dict[str, Any]) -> bool:
    """Whether it has two dimensions of known sizes, at most float32, and neither groups nor a dilated input."""
    return (
        lhs.ndim == 4
        and all(isinstance(size, int) for size in (*lhs.shape, *rhs.shape))
        and all(jnp.issubdtype(side.dtype, jnp.floating) and side.dtype.itemsize <= 4 for side in (lhs, rhs))
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and tuple(params["lhs_dilation"]) == (1, 1)
    )


def _form(lhs: Array, rhs: Array, params: dict[str, Any]) -> Callable[[Array, Array, _Window], Array] | None:
    """The function below that computes it; None if XLA's own form is kept."""
    dims: lax.ConvDimensionNumbers = params["dimension_numbers"]
    result = jax.eval_shape(partial(lax.conv_general_dilated_p.bind, **params), lhs, rhs)
    batch, channels, *size = (lhs.shape[i] for i in dims.lhs_spec)
    outputs, _, *window = (rhs.shape[i] for i in dims.rhs_spec)
    positions = [result.shape[i] for i in dims.out_spec[2:]]
    if batch * channels * outputs * math.prod(window) * math.prod(positions) < _SMALL:
        return None
    unpadded = tuple(params["padding"]) == _NO_PADDING
    if unpadded and positions == [1, 1]:
        return _whole_sum
    if unpadded and window == [1, 1]:
        return _pointwise
    # The gradient of a kernel: its window is an image, and its channels are the images of the batch.
    if dims.lhs_spec[1] == dims.rhs_spec[1] == 0 and math.prod(window) > math.prod(positions):
        return _sum_of_chunks
    one_more_row_fits = positions[0] == size[0] and params["window_strides"][0] == 1
    if one_more_row_fits and max(channels, outputs) > _YNNPACK_CHANNELS:
        return _with_one_more_row
    return None


def _whole_sum(x: Array, kernel: Array, window: _Window) -> Array:
    """A single position of the window, as for the gradient of a 1x1 kernel: a product of matrices."""
    (rows, columns), (down, right) = kernel.shape[:2], window.dilation
    x = x[:, : (rows - 1) * down + 1 : down, : (columns - 1) * right + 1 : right]
    axes = ((1, 2, 3), (0, 1, 2))
    return lax.dot_general(x, kernel, (axes, ((), ())), precision=window.precision)[:, None, None]


def _pointwise(x: Array, kernel: Array, window: _Window) -> Array:
    """A window of a single position, as of a 1x1 kernel: a product of matrices."""
    down, right = window.strides
    return lax.dot_general(x[:, ::down, ::right], kernel[0, 0], (((3,), (0,)), ((), ())), precision=window.precision)


def _with_one_more_row(x: Array, kernel: Array, window: _Window) -> Array:
    """Two-dimensional, for Eigen."""
    (top, bottom), columns = window.padding
    return window._replace(padding=((top, bottom + 1), columns)).convolve(x, kernel)[:, :-1]


def _sum_of_chunks(x: Array, kernel: Array, window: _Window) -> Array:
    """The sum over chunks of the channels; in each one-dimensional, for Eigen.

    A loop, so that a chunk is compiled once; and the memory it takes is that of one chunk.
    """
    *space, channels, _ = kernel.shape
    size = max(1, min(_IMAGES, _POSITIONS // math.prod(space), channels))
    count = math.ceil(channels / size)
    size = math.ceil(channels / count)
    missing = count * size - channels
    # Channels first, and the order in which the gradient of a kernel finds its images.
    x = _split(lax.transpose(x, (3, 1, 2, 0)), count, missing)
    kernel = _split(lax.transpose(kernel, (2, 0, 1, 3)), count, missing)
    if count == 1:
        return _chunk(x[0], kernel[0], window)
    shape = jax.eval_shape(partial(_chunk, window=window), x[0], kernel[0])
    total, _ = lax.scan(
        lambda total, part: (total + _chunk(*part, window), None), jnp.zeros(shape.shape, shape.dtype), (x, kernel)
    )
    return total


def _split(x: Array, count: int, missing: int) -> Array:
    """In chunks of the leading dimension, the last filled with zeros."""
    x = jnp.pad(x, ((0, missing), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(count, -1, *x.shape[1:])


def _chunk(x: Array, kernel: Array, window: _Window) -> Array:
    """Columns are taken together with channels, so that the convolution is over rows alone.

    Args:
      x: (channels, rows, columns, batch).
      kernel: (channels, rows, columns, outputs).
      window: of the convolution.
    """
    channels, _, columns, outputs = kernel.shape
    (_, stride), (rows_padding, (left, right)), (_, dilation), _ = window
    batch, rows, reach = x.shape[3], x.shape[1], (columns - 1) * dilation + 1
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), (left, right, 0), (0, 0, 0)))
    x = lax.transpose(x, (3, 1, 2, 0))
    starts = range(0, x.shape[2] - reach + 1, stride)
    x = jnp.stack([x[:, :, start : start + reach : dilation] for start in starts])
    rows_window = _Window(window.strides[:1], (rows_padding,), window.dilation[:1], window.precision)
    y = rows_window.convolve(
        x.reshape(len(starts) * batch, rows, columns * channels),
        lax.transpose(kernel, (1, 2, 0, 3)).reshape(-1, columns * channels, outputs),
    )
    return lax.transpose(y.reshape(len(starts), batch, -1, outputs), (1, 2, 0, 3))
