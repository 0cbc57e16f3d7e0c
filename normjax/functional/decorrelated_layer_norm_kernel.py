"""Decorrelated layer normalization as one TPU kernel forward and one backward (Pallas).

A kernel reads each sample once, into the chip's own memory, and writes its result: the matrices never leave the chip.
Groups lie on the diagonal of 128 x 128 matrices, which is what the matrix unit multiplies.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from normjax.functional.groups import centre
from normjax.functional.whitening import inverse_root, newton

_LANES = 128  # the width of a tile and of the matrix unit
_SUBLANES = 8  # the height of a tile of float32
_MOST_CHANNELS = 1024  # the derivative keeps the matrices of one sample
_LARGEST_BLOCK = 4 * 2**20  # bytes that one operand may take of the chip's memory
_MEMORY = 64 * 2**20  # bytes that a kernel may take of it: v5e, v5p, v6e and later have as many


class Whitening(NamedTuple):
    """What the kernels are compiled for; the arguments of ``decorrelated_layer_norm``, mode ``channel``, Newton."""

    group_size: int
    iterations: int
    epsilon: float
    shrink: float
    layer_norm: bool
    renormalize: bool


def check_kernel(positions: int, channels: int, group_size: int) -> None:
    """ValueError where the kernels do not take samples of this shape."""
    if channels > _LANES and (channels % _LANES or _LANES % group_size or channels > _MOST_CHANNELS):
        raise ValueError(
            f"tpu_kernel=True takes up to {_LANES} channels, or a multiple of {_LANES} up to {_MOST_CHANNELS} in "
            f"groups of a size that divides {_LANES}; the input has {channels} in groups of {group_size}."
        )
    if (size := _bytes(positions, channels)) > _LARGEST_BLOCK:
        raise ValueError(
            f"tpu_kernel=True takes samples of up to {_LARGEST_BLOCK >> 20} MiB; one with {positions} positions and "
            f"{channels} channels takes {size / 2**20:.1f} MiB."
        )


def normalize_samples(
    whitening: Whitening,
    x: Float[Array, "batch *spatial channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    *,
    interpret: bool = False,
) -> Float[Array, "batch *spatial channels"]:
    """Decorrelated layer normalization."""
    blocks = _blocks(x.shape)
    y = pl.pallas_call(
        partial(_forward_kernel, whitening, blocks),
        out_shape=blocks.array(x.dtype),
        grid=(blocks.number,),
        in_specs=[blocks.spec(), _row(x.shape), _row(x.shape)],
        out_specs=blocks.spec(),
        compiler_params=_COMPILER,
        interpret=interpret,
    )(blocks.laid_out(x), scale[None], bias[None])
    return blocks.activations(y, x.shape)


def normalize_samples_transposed(
    whitening: Whitening,
    x: Float[Array, "batch *spatial channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    g: Float[Array, "batch *spatial channels"],
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "batch *spatial channels"], Float[Array, " channels"], Float[Array, " channels"]]:
    """The gradients by ``x``, ``scale`` and ``bias`` where that by the result is ``g``."""
    blocks = _blocks(x.shape)
    # Each block has its own sums for scale and bias: blocks may run in any order.
    sums = jax.ShapeDtypeStruct((blocks.number, 1, x.shape[-1]), x.dtype)
    sum_spec = pl.BlockSpec((1, 1, x.shape[-1]), lambda i: (i, 0, 0))
    dx, dscale, dbias = pl.pallas_call(
        partial(_backward_kernel, whitening, blocks),
        out_shape=(blocks.array(x.dtype), sums, sums),
        grid=(blocks.number,),
        in_specs=[blocks.spec(), _row(x.shape), _row(x.shape), blocks.spec()],
        out_specs=(blocks.spec(), sum_spec, sum_spec),
        compiler_params=_COMPILER,
        interpret=interpret,
    )(blocks.laid_out(x), scale[None], bias[None], blocks.laid_out(g))
    return blocks.activations(dx, x.shape), dscale.sum((0, 1)), dbias.sum((0, 1))


_COMPILER = pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=_MEMORY)


class _Blocks(NamedTuple):
    """The samples in blocks that a kernel reads at once."""

    batch: int
    positions: int
    channels: int
    axis: int  # of the samples, in (batch, positions, channels) or (positions, batch, channels)
    size: int

    @property
    def number(self) -> int:
        return -(-self.batch // self.size)

    def at(self, i: Array) -> tuple:
        """Where sample i of a block lies in it."""
        return (slice(None), i) if self.axis else (i,)

    def spec(self) -> pl.BlockSpec:
        if self.axis:
            return pl.BlockSpec((self.positions, self.size, self.channels), lambda i: (0, i, 0))
        return pl.BlockSpec((self.size, self.positions, self.channels), lambda i: (i, 0, 0))

    def laid_out(self, x: Array) -> Array:
        return jnp.swapaxes(x.reshape(self.batch, self.positions, self.channels), 0, self.axis)

    def activations(self, x: Array, shape: tuple[int, ...]) -> Array:
        return jnp.swapaxes(x, 0, self.axis).reshape(shape)

    def array(self, dtype: jnp.dtype) -> jax.ShapeDtypeStruct:
        outer = (self.positions, self.batch) if self.axis else (self.batch, self.positions)
        return jax.ShapeDtypeStruct((*outer, self.channels), dtype)

    def for_each(self, body: Callable[[Array], None]) -> None:
        """Runs the body for the samples of a kernel's own block; the last one may not be full."""
        pl.loop(0, jnp.minimum(self.size, self.batch - pl.program_id(0) * self.size))(body)


def _blocks(shape: tuple[int, ...]) -> _Blocks:
    """Blocks of samples as they lie in the memory of a TPU, so that nothing need be moved before a kernel."""
    batch, *spatial, channels = shape
    positions = math.prod(spatial)
    size = min(_SUBLANES, batch)
    if spatial[-1] % _SUBLANES and size * _bytes(positions, channels) <= _LARGEST_BLOCK:
        # Rows of positions would not fill the tiles: the compiler puts the samples there.
        return _Blocks(batch, positions, channels, 1, size)
    return _Blocks(batch, positions, channels, 0, min(size, max(1, _LARGEST_BLOCK // _bytes(positions, channels) // 2)))


def _row(shape: tuple[int, ...]) -> pl.BlockSpec:
    return pl.BlockSpec((1, shape[-1]), lambda _: (0, 0))


def _forward_kernel(whitening: Whitening, blocks: _Blocks, x_ref, scale_ref, bias_ref, y_ref) -> None:
    scale, bias = scale_ref[...], bias_ref[...]

    def of_sample(i: Array) -> None:
        y_ref[blocks.at(i)] = _normalize(whitening, x_ref[blocks.at(i)], scale, bias)

    blocks.for_each(of_sample)


def _backward_kernel(
    whitening: Whitening, blocks: _Blocks, x_ref, scale_ref, bias_ref, g_ref, dx_ref, dscale_ref, dbias_ref
) -> None:
    scale, bias = scale_ref[...], bias_ref[...]
    dscale_ref[...] = jnp.zeros(dscale_ref.shape, dscale_ref.dtype)
    dbias_ref[...] = jnp.zeros(dbias_ref.shape, dbias_ref.dtype)

    def of_sample(i: Array) -> None:
        _, pull = jax.vjp(partial(_normalize, whitening), x_ref[blocks.at(i)], scale, bias)
        dx, dscale, dbias = pull(g_ref[blocks.at(i)])
        dx_ref[blocks.at(i)] = dx
        dscale_ref[0] += dscale
        dbias_ref[0] += dbias

    blocks.for_each(of_sample)


def _bytes(positions: int, channels: int) -> int:
    return 4 * positions * max(channels, _LANES)


def _normalize(
    whitening: Whitening,
    x: Float[Array, "positions channels"],
    scale: Float[Array, "1 channels"],
    bias: Float[Array, "1 channels"],
) -> Float[Array, "positions channels"]:
    positions, channels = x.shape
    width = min(channels, _LANES)
    row, column = (lax.broadcasted_iota(jnp.int32, (1, width, width), axis) for axis in (1, 2))
    size = jnp.int32(whitening.group_size)
    in_group = lax.div(row, size) == lax.div(column, size)
    identity = (row == column).astype(x.dtype)

    mean, centred = centre(x)
    # (blocks, positions, width) and (blocks, width, width)
    vectors = jnp.stack([centred[:, start : start + width] for start in range(0, channels, width)])
    covariance = jnp.where(in_group, _dot(vectors, vectors, 1, 1), 0) / positions
    if whitening.layer_norm:
        # The variance over all values is that inside the channels and that of their means.
        between = mean - mean.mean(1, keepdims=True)
        variance = _total(covariance * identity) / channels + lax.square(between).mean(1, keepdims=True)[None]
        gain = inverse_root(variance + whitening.epsilon)
        covariance = covariance * lax.square(gain)
    shrunk = covariance
    if whitening.shrink:
        share = whitening.shrink / whitening.group_size
        shrunk = (1 - whitening.shrink) * covariance + share * _traces(covariance, identity, in_group) * identity
    shifted = shrunk + whitening.epsilon * identity
    trace = _traces(shifted, identity, in_group)
    matrix = newton(
        shifted / jnp.where(trace > 0, trace, 1), whitening.iterations, partial(_dot, contract_a=2, contract_b=1)
    )[-1][-1]
    matrix = matrix * inverse_root(trace)
    if whitening.renormalize:
        # The mean square of the output is the mean of the diagonal of W S W.
        power = _total(_dot(matrix, covariance, 2, 1) * matrix) / channels
        matrix = matrix * inverse_root(power + whitening.epsilon)
    if whitening.layer_norm:
        matrix = matrix * gain
    whitened = _dot(vectors, matrix, 2, 1)
    return jnp.concatenate([whitened[block] for block in range(channels // width)], axis=1) * scale + bias


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    return lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)


def _traces(matrix: Array, identity: Array, in_group: Array) -> Array:
    """The trace of each group, in every column of the group: (blocks, 1, width)."""
    diagonal = (matrix * identity).sum(2, keepdims=True)
    return jnp.where(in_group, diagonal, 0).sum(1, keepdims=True)


def _total(x: Array) -> Array:
    return x.sum((1, 2), keepdims=True).sum(0, keepdims=True)
