"""Decorrelated layer normalization as one TPU kernel forward and one backward (Pallas).

A kernel reads each sample once, into the chip's own memory, and writes its result: the matrices never leave the chip.
Groups lie on the diagonal of 128 x 128 matrices, which is what the matrix unit multiplies.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from normjax.functional.whitening import newton

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


def check_kernel(shape: tuple[int, ...], group_size: int) -> None:
    """ValueError where the kernels do not take activations of this shape (batch, positions, channels)."""
    _, positions, channels = shape
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
    whitening: Whitening, x: Float[Array, "batch positions channels"], *, interpret: bool = False
) -> Float[Array, "batch positions channels"]:
    """Decorrelated layer normalization."""
    return _call(partial(_forward_kernel, whitening), (x,), interpret)


def normalize_samples_transposed(
    whitening: Whitening,
    x: Float[Array, "batch positions channels"],
    g: Float[Array, "batch positions channels"],
    *,
    interpret: bool = False,
) -> Float[Array, "batch positions channels"]:
    """The gradient by ``x`` of what has the gradient ``g`` by the result."""
    return _call(partial(_backward_kernel, whitening), (x, g), interpret)


class _Samples(NamedTuple):
    """Where the samples of a block lie."""

    axis: int
    block: int

    def at(self, i: Array) -> tuple:
        return (slice(None), i) if self.axis else (i,)


def _forward_kernel(whitening: Whitening, samples: _Samples, x_ref, y_ref) -> None:
    @pl.loop(0, samples.block)
    def _(i):
        y_ref[samples.at(i)] = _normalize(whitening, x_ref[samples.at(i)])


def _backward_kernel(whitening: Whitening, samples: _Samples, x_ref, g_ref, dx_ref) -> None:
    @pl.loop(0, samples.block)
    def _(i):
        _, pull = jax.vjp(partial(_normalize, whitening), x_ref[samples.at(i)])
        (dx_ref[samples.at(i)],) = pull(g_ref[samples.at(i)])


def _call(kernel, arguments: tuple[Array, ...], interpret: bool) -> Array:
    batch, positions, channels = arguments[0].shape
    # Activations of a TPU have the batch along the sublanes as a rule: a block of a tile's height is read as it lies.
    # Where that many samples are too large for the chip's memory, each comes alone.
    high = min(_SUBLANES, batch)
    samples = _Samples(1, high) if high * _bytes(positions, channels) <= _LARGEST_BLOCK else _Samples(0, 1)
    if samples.axis:
        block = pl.BlockSpec((positions, samples.block, channels), lambda i: (0, i, 0))
    else:
        block = pl.BlockSpec((samples.block, positions, channels), lambda i: (i, 0, 0))
    laid_out = [jnp.swapaxes(x, 0, samples.axis) for x in arguments]
    result = pl.pallas_call(
        partial(kernel, samples),
        out_shape=jax.ShapeDtypeStruct(laid_out[0].shape, laid_out[0].dtype),
        grid=(pl.cdiv(batch, samples.block),),
        in_specs=[block] * len(arguments),
        out_specs=block,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=_MEMORY),
        interpret=interpret,
    )(*laid_out)
    return jnp.swapaxes(result, 0, samples.axis)


def _bytes(positions: int, channels: int) -> int:
    return 4 * positions * max(channels, _LANES)


def _normalize(whitening: Whitening, x: Float[Array, "positions channels"]) -> Float[Array, "positions channels"]:
    positions, channels = x.shape
    width = min(channels, _LANES)
    row, column = (lax.broadcasted_iota(jnp.int32, (1, width, width), axis) for axis in (1, 2))
    size = jnp.int32(whitening.group_size)
    in_group = lax.div(row, size) == lax.div(column, size)
    identity = (row == column).astype(x.dtype)

    mean = x.mean(0, keepdims=True)
    centred = x - mean
    # (blocks, positions, width) and (blocks, width, width)
    vectors = jnp.stack([centred[:, start : start + width] for start in range(0, channels, width)])
    covariance = jnp.where(in_group, _dot(vectors, vectors, 1, 1), 0) / positions
    if whitening.layer_norm:
        # The variance over all values is that inside the channels and that of their means.
        between = mean - mean.mean(1, keepdims=True)
        variance = _total(covariance * identity) / channels + lax.square(between).mean(1, keepdims=True)[None]
        gain = lax.rsqrt(variance + whitening.epsilon)
        covariance = covariance * lax.square(gain)
    shrunk = covariance
    if whitening.shrink:
        share = whitening.shrink / whitening.group_size
        shrunk = (1 - whitening.shrink) * covariance + share * _traces(covariance, identity, in_group) * identity
    shifted = shrunk + whitening.epsilon * identity
    trace = _traces(shifted, identity, in_group)
    matrix = newton(shifted / trace, whitening.iterations, partial(_dot, contract_a=2, contract_b=1))[-1][-1]
    matrix = matrix * lax.rsqrt(trace)
    if whitening.renormalize:
        # The mean square of the output is the mean of the diagonal of W S W.
        power = _total(_dot(matrix, covariance, 2, 1) * matrix) / channels
        matrix = matrix * lax.rsqrt(power + whitening.epsilon)
    if whitening.layer_norm:
        matrix = matrix * gain
    whitened = _dot(vectors, matrix, 2, 1)
    return jnp.concatenate([whitened[block] for block in range(channels // width)], axis=1)


def _dot(a: Array, b: Array, contract_a: int, contract_b: int) -> Array:
    return lax.dot_general(a, b, (((contract_a,), (contract_b,)), ((0,), (0,))), precision=lax.Precision.HIGHEST)


def _traces(matrix: Array, identity: Array, in_group: Array) -> Array:
    """The trace of each group, in every column of the group: (blocks, 1, width)."""
    diagonal = (matrix * identity).sum(2, keepdims=True)
    return jnp.where(in_group, diagonal, 0).sum(1, keepdims=True)


def _total(x: Array) -> Array:
    return x.sum((1, 2), keepdims=True).sum(0, keepdims=True)
