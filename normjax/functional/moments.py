"""Count, mean and sum of squared deviations of a batch, on one device or over many."""

import math
import operator
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

AxisName = Any  # a named axis of pmap, shard_map or vmap, or a tuple of them
AxisIndexGroups = Sequence[Sequence[int]] | None


# Plain sums lose this factor of float32's accuracy at most, before two passes take their place.
_LARGEST_CANCELLATION = 100.0


class Moments(NamedTuple):
    """Count, mean and sum of squared deviations of a set of values, per feature."""

    # values seen; 0 where all were masked out. The name hides tuple.count, which nobody misses here.
    count: Float[Array, "*features"]  # type: ignore[assignment]
    mean: Inexact[Array, "*features"]  # 0 where the count is 0
    m2: Float[Array, "*features"]  # sum of |x - mean|**2; the variance is m2 / count

    @property
    def variance(self) -> Float[Array, "*features"]:
        """Biased variance, m2 / count; 0 where the count is 0."""
        return self.m2 / jnp.maximum(self.count, 1)

    @property
    def unbiased_variance(self) -> Float[Array, "*features"]:
        """Unbiased variance, m2 / (count - 1); 0 where the count is below 2."""
        return self.m2 / jnp.maximum(self.count - 1, 1)


def moments(
    x: Inexact[Array, "..."],
    axes: Sequence[int],
    *,
    mask: Bool[Array, "..."] | None = None,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    use_fast_variance: bool = True,
) -> Moments:
    r"""Count, mean and sum of squared deviations over ``axes``, of all devices together.

    .. math:: n = \sum_i 1, \qquad \mu = \frac1n \sum_i x_i, \qquad M = \sum_i |x_i - \mu|^2.

    One pass over the data shifts by the mean :math:`K` of its first values and corrects at the end,
    :math:`M = \sum |x_i - K|^2 - |\sum (x_i - K)|^2 / n`. With the mean of :math:`k` out of :math:`s`
    values, :math:`|\mu - K|^2 \le (s / k - 1)\, M / n`, so at most a factor of :math:`s / k` is lost to
    cancellation, however far the data lie from zero; k is at least one value in 1,024.
    On CPU the pass takes plain sums (:math:`K = 0`), and two passes take its place where
    :math:`\mu^2` exceeds 100 times the variance.
    Devices exchange their moments in one collective (for each named axis) and merge them weighted by count.

    Args:
      x: values, any floating or complex type; statistics are at least float32.
      axes: the axes to reduce.
      mask: broadcastable to ``x``, True where a value counts. Masked-out values may be NaN:
        they reach neither the result nor a gradient.
      axis_name: the mapped axis (or axes) whose devices share their moments.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      use_fast_variance: one shifted pass (True), or two passes. With a mask always two.

    Returns:
      Moments with one entry a feature (the axes not reduced), equal on all devices of a group.

    Raises:
      ValueError: an axis is out of range or named twice, or ``mask`` does not broadcast to ``x``.

    Example:
      >>> m = moments(jnp.array([[1.0], [3.0], [8.0]]), (0,), mask=jnp.array([[True], [True], [False]]))
      >>> print(m.count, m.mean, m.variance)
      [2.] [2.] [1.]

    References:
      Chan, Golub, LeVeque, `Algorithms for computing the sample variance: analysis and
      recommendations <https://doi.org/10.1080/00031305.1983.10483115>`_, 1983.
    """
    axes = canonical_axes(x.ndim, axes)
    mask = expand_mask(mask, x)
    x = x.astype(statistics_dtype(x.dtype))
    local = _masked_moments(x, axes, mask) if mask is not None else _full_moments(axes, use_fast_variance, x)
    if axis_name is None:
        return local
    return merge_devices(local, axis_name, axis_index_groups, counts_differ=mask is not None)


def merge(a: Moments, b: Moments) -> Moments:
    r"""Moments of the union of two disjoint sets.

    With :math:`\delta = \mu_b - \mu_a` and :math:`n = n_a + n_b`,

    .. math:: \mu = \mu_a + \delta\, n_b / n, \qquad M = M_a + M_b + |\delta|^2 n_a n_b / n.

    Args:
      a: moments of the first set, one entry a feature.
      b: moments of the second set, same features.

    Returns:
      The moments of both together; an empty side leaves the other unchanged.

    Example:
      >>> x = jnp.arange(10.0).reshape(5, 2)
      >>> both = merge(moments(x[:3], (0,)), moments(x[3:], (0,)))
      >>> bool(jnp.allclose(both.m2, moments(x, (0,)).m2))
      True

    References:
      Chan, Golub, LeVeque, `Updating formulae and a pairwise algorithm for computing sample
      variances <http://i.stanford.edu/pub/cstr/reports/cs/tr/79/773/CS-TR-79-773.pdf>`_, 1979.
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    delta = b.mean - a.mean
    mean = a.mean + delta * share.astype(delta.dtype)
    return Moments(count, mean, a.m2 + b.m2 + abs_squared(delta) * a.count * share)


def merge_stacked(stacked: Moments) -> Moments:
    """Moments of the union of many disjoint sets, stacked along a leading axis.

    Args:
      stacked: moments with one entry a set and feature.

    Returns:
      The moments of all together, one entry a feature.

    Example:
      >>> x = jnp.arange(12.0).reshape(3, 2, 2)
      >>> bool(jnp.allclose(merge_stacked(moments(x, (1,))).m2, moments(x, (0, 1)).m2))
      True
    """
    count, mean = pooled_mean(stacked.count, stacked.mean)
    deviations = stacked.count * abs_squared(stacked.mean - mean[None])
    return Moments(count, mean, (stacked.m2 + deviations).sum(0))


def empty_moments(shape: Sequence[int], dtype: Any = jnp.float32) -> Moments:
    """Moments of no values, the neutral element of ``merge``.

    Args:
      shape: one entry a feature.
      dtype: type of the mean; count and m2 have the real type that goes with it.

    Returns:
      Moments of zeros.

    Example:
      >>> print(empty_moments((2,)).count)
      [0. 0.]
    """
    real = jnp.finfo(dtype).dtype
    return Moments(jnp.zeros(shape, real), jnp.zeros(shape, dtype), jnp.zeros(shape, real))


def moving_average(old: Array, new: Array, momentum: float, count: Array) -> Array:
    """The share ``momentum`` of the old value and the rest of the new one; the old value where the count is 0."""
    # The type of the state stays, unless complex data make the mean complex.
    dtype = new.dtype if jnp.iscomplexobj(new) else old.dtype
    old, new = old.astype(dtype), new.astype(dtype)
    moved = (momentum * old + (1 - momentum) * new).astype(dtype)
    # Without a share in the new value, an old one that is NaN leaves nothing behind.
    return jnp.where(count > 0, jnp.where(momentum == 0, new, moved), old)


def canonical_axes(ndim: int, axes: int | Sequence[int]) -> tuple[int, ...]:
    """The axes as a sorted tuple of non-negative numbers; ValueError where one is out of range or double."""
    axes = (operator.index(axes),) if hasattr(axes, "__index__") else tuple(axes)
    if any(not -ndim <= axis < ndim for axis in axes):
        raise ValueError(f"axes={axes} out of range for an array of {ndim} dimensions; use {-ndim} to {ndim - 1}.")
    positive = tuple(sorted(axis % ndim for axis in axes))
    if len(set(positive)) != len(positive):
        raise ValueError(f"axes={axes} names an axis twice; name each axis once.")
    return positive


def statistics_dtype(dtype: Any) -> Any:
    """The type statistics are computed in: float32, or the input's own where that is wider or complex."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(f"input of type {dtype} has no statistics; use a floating or complex type.")
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def abs_squared(x: Inexact[Array, "..."]) -> Float[Array, "..."]:
    """|x|**2, real for complex input."""
    if jnp.iscomplexobj(x):
        return lax.square(jnp.real(x)) + lax.square(jnp.imag(x))
    return lax.square(x)


def expand_mask(mask: Any, x: Array) -> Array | None:
    """The mask with as many dimensions as ``x``; ValueError where it does not broadcast to it."""
    if mask is None:
        return None
    mask = jnp.asarray(mask, bool)
    try:
        fits = jnp.broadcast_shapes(mask.shape, x.shape) == x.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"mask of shape {mask.shape} does not broadcast to the input's shape {x.shape}.")
    return mask.reshape((1,) * (x.ndim - mask.ndim) + mask.shape)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _full_moments(axes: tuple[int, ...], use_fast_variance: bool, x: Array) -> Moments:
    shape, real = _feature_shape(x, axes), jnp.finfo(x.dtype).dtype
    size = math.prod(x.shape[axis] for axis in axes)
    if size == 0:
        return empty_moments(shape, x.dtype)
    if not use_fast_variance:
        mean, m2 = _two_passes(x, axes)
    elif jnp.iscomplexobj(x) or not axes:
        mean, m2 = _shifted_pass(x, axes)
    else:
        mean, m2 = _one_pass(x, axes)
    return Moments(jnp.full(shape, size, real), mean, m2)


@_full_moments.defjvp
def _full_moments_jvp(axes: tuple[int, ...], use_fast_variance: bool, primals: tuple, tangents: tuple):
    (x,), (dx,) = primals, tangents
    stats = _full_moments(axes, use_fast_variance, x)
    count = jnp.maximum(stats.count, 1).astype(x.dtype)
    deviations = x - jnp.expand_dims(stats.mean, axes)
    dm2 = 2 * jnp.real(jnp.conj(deviations) * dx).sum(axes)
    return stats, Moments(jnp.zeros_like(stats.count), dx.sum(axes) / count, dm2)


@partial(jax.jit, static_argnums=1, inline=True)  # without it each call outside of jit would compile anew
def _one_pass(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and m2; XLA's sums on CPU are fastest over what lies in memory as it is."""
    return lax.platform_dependent(x, cpu=partial(_plain_pass, axes=axes), default=partial(_shifted_pass, axes=axes))


def _plain_pass(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and m2 from plain sums; where the mean is so large that they would cancel, from two passes."""
    size = math.prod(x.shape[axis] for axis in axes)

    total, square = x.sum(axes), lax.square(x).sum(axes)
    mean = total / size
    m2 = square - total * mean
    kept = (total * mean <= _LARGEST_CANCELLATION * m2) & jnp.isfinite(m2)
    return lax.cond(
        kept.all(),
        lambda _, mean, m2: (mean, m2),
        lambda x, mean, _: _around(x, axes, jnp.expand_dims(mean, axes)),
        x,
        mean,
        m2,
    )


def _shifted_pass(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and m2 of the values less the mean of the first of them, one in 1,024 or a few more."""
    sample, left = x, 1024
    for axis in axes:
        size = x.shape[axis]
        kept = -(-size // left)
        sample = lax.slice_in_dim(sample, 0, kept, axis=axis)
        left = left * kept // size
    return _around(x, axes, sample.mean(axes, keepdims=True))


def _two_passes(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and m2 of the values less their mean."""
    return _around(x, axes, x.mean(axes, keepdims=True))


def _around(x: Array, axes: tuple[int, ...], shift: Array) -> tuple[Array, Array]:
    size = math.prod(x.shape[axis] for axis in axes)
    shifted = x - shift
    total = shifted.sum(axes)
    mean = shift.reshape(_feature_shape(x, axes)) + total / size
    return mean, jnp.maximum(abs_squared(shifted).sum(axes) - abs_squared(total) / size, 0)


def _masked_moments(x: Array, axes: tuple[int, ...], mask: Array) -> Moments:
    shape, real = _feature_shape(x, axes), jnp.finfo(x.dtype).dtype
    over = partial(jnp.sum, axis=axes, keepdims=True)
    count = over(jnp.broadcast_to(mask, x.shape), dtype=real)
    divisor = jnp.maximum(count, 1)
    divisor_like_x = divisor.astype(x.dtype)  # complex data want a complex one under strict promotion
    shift = lax.stop_gradient(over(jnp.where(mask, x, 0)) / divisor_like_x)
    shifted = jnp.where(mask, x - shift, 0)
    total = over(shifted)
    mean = shift + total / divisor_like_x
    m2 = jnp.maximum(over(abs_squared(shifted)) - abs_squared(total) / divisor, 0)
    return Moments(count.reshape(shape), mean.reshape(shape), m2.reshape(shape))


def merge_devices(
    local: Moments, axis_name: AxisName, groups: AxisIndexGroups = None, *, counts_differ: bool = True
) -> Moments:
    """The moments of all devices of ``axis_name`` together, by one gather; counts that are equal are not sent."""
    # A gather keeps each device's own mean; a sum of unshifted squares would lose the variance at large means.
    sent = local if counts_differ else (local.mean, local.m2)
    gathered = gather(jnp.stack([part.astype(local.mean.dtype) for part in sent]), axis_name, groups)
    mean, m2 = gathered[:, -2], jnp.real(gathered[:, -1])
    counts = jnp.real(gathered[:, 0]) if counts_differ else jnp.broadcast_to(local.count[None], m2.shape)
    return merge_stacked(Moments(counts, mean, m2))


def pooled_mean(counts: Array, means: Array) -> tuple[Array, Array]:
    """Count and mean of the union of sets stacked along the leading axis, weighted by count."""
    count = counts.sum(0)
    # Empty sets have mean 0 and weight 0. The mean of the deviations corrects what the rounding of the weights did
    # to the first estimate: an error common to all values would not average out in a gradient.
    share = (counts / jnp.maximum(count, 1)[None]).astype(means.dtype)
    estimate = (share * means).sum(0)
    return count, estimate + (share * (means - estimate[None])).sum(0)


def gather(x: Array, axis_name: AxisName, groups: AxisIndexGroups) -> Array:
    """The value of every device, along a new leading axis."""
    gathered = x[None]
    # One name after the other: JAX gathers over several at once only where none of them is an axis of vmap.
    for name in axis_name if isinstance(axis_name, tuple) else (axis_name,):
        # shard_map with check_vma=True wants to be told that the result is the same on all devices.
        to = "invarying" if groups is None and name in _varying_axes(gathered) else "varying"
        gathered = lax.all_gather(gathered, name, axis_index_groups=groups, to=to)
        gathered = gathered.reshape(-1, *x.shape)
    return gathered


def _varying_axes(x: Array) -> frozenset:
    # The attribute has moved between releases of JAX.
    kind = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.mat.varying


def _feature_shape(x: Array, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
