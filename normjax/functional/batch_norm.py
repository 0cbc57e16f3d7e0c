"""Batch normalization: the training form with its derivative, the inference form, the running statistics."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from normjax.functional.moments import (
    AxisIndexGroups,
    AxisName,
    Moments,
    canonical_axes,
    expand_mask,
    moments,
    moving_average,
    statistics_dtype,
)


def batch_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "*features"] | None = None,
    bias: Inexact[Array, "*features"] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    mask: Bool[Array, "..."] | None = None,
    epsilon: float = 1e-5,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    use_fast_variance: bool = True,
    dtype: Any = None,
) -> tuple[Inexact[Array, "..."], Moments]:
    r"""Normalises each feature by the mean and variance of the batch (Algorithm 1).

    With the biased moments over all axes but ``axis``, of all devices of ``axis_name`` together,

    .. math:: y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta.

    The derivative is written by hand. With :math:`\hat x` the normalised input and means over the
    same values,
    :math:`\partial L/\partial x = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (g - \bar g - \hat x\,
    \overline{g \hat x})`; across devices it takes one collective, as the forward pass does.

    Args:
      x: activations, features along ``axis``, any floating or complex type.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      axis: the feature axis or axes; all others are reduced.
      mask: broadcastable to ``x``, True where a value counts for the statistics. The others are
        normalised by them too; where one is NaN or infinite it is treated as the mean.
      epsilon: added to the variance.
      axis_name: the mapped axis (or axes) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      use_fast_variance: one shifted pass for the variance (True), or two passes.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``, and the moments they were normalised by.

    Raises:
      ValueError: ``axis`` is out of range, ``mask`` does not broadcast to ``x``, ``scale`` or ``bias``
        has another shape than the features, or ``epsilon`` is negative.

    Example:
      >>> y, stats = batch_norm(jnp.array([[1.0], [3.0]]), epsilon=0.0)
      >>> print(y.ravel(), stats.mean, stats.variance)
      [-1.  1.] [2.] [1.]

    References:
      Ioffe, Szegedy, `Batch Normalization: Accelerating Deep Network Training by Reducing Internal
      Covariate Shift <https://arxiv.org/abs/1502.03167>`_, 2015.
    """
    features = canonical_axes(x.ndim, axis)
    _check(x, features, epsilon, scale=scale, bias=bias)
    axes = tuple(i for i in range(x.ndim) if i not in features)
    groups = None if axis_index_groups is None else tuple(tuple(int(i) for i in group) for group in axis_index_groups)
    form = _Form(axes, float(epsilon), axis_name, groups, use_fast_variance, jnp.dtype(dtype or x.dtype))
    return _batch_norm(form, x, expand_mask(mask, x), scale, bias)


def normalize(
    x: Inexact[Array, "..."],
    mean: Inexact[Array, "*features"],
    variance: Float[Array, "*features"],
    scale: Inexact[Array, "*features"] | None = None,
    bias: Inexact[Array, "*features"] | None = None,
    *,
    axis: int | Sequence[int] = -1,
    epsilon: float = 1e-5,
    dtype: Any = None,
) -> Inexact[Array, "..."]:
    r"""Normalises each feature by given statistics: batch normalization at inference (Algorithm 2).

    .. math:: y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta.

    Args:
      x: activations, features along ``axis``.
      mean: mean, one entry a feature.
      variance: variance, one entry a feature.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      axis: the feature axis or axes.
      epsilon: added to the variance.
      dtype: type of the output; None is the type of ``x``.

    Returns:
      The normalised activations, shape of ``x``.

    Raises:
      ValueError: ``axis`` is out of range, a statistic has another shape than the features, or
        ``epsilon`` is negative.

    Example:
      >>> print(normalize(jnp.array([[5.0]]), jnp.array([1.0]), jnp.array([4.0]), epsilon=0.0))
      [[2.]]

    References:
      Ioffe, Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_, 2015.
    """
    features = canonical_axes(x.ndim, axis)
    _check(x, features, epsilon, mean=mean, variance=variance, scale=scale, bias=bias)
    axes = tuple(i for i in range(x.ndim) if i not in features)
    wide = statistics_dtype(x.dtype)
    # Centre first: folding the mean into the bias would cancel for data far from zero.
    inverse = lax.rsqrt(variance + epsilon).astype(wide)
    y = (x.astype(wide) - jnp.expand_dims(mean.astype(wide), axes)) * jnp.expand_dims(inverse, axes)
    return _affine(y, scale, bias, axes).astype(dtype or x.dtype)


class RunningStatistics(NamedTuple):
    """Exponential moving averages that stand for the population at inference."""

    mean: Inexact[Array, "*features"]
    variance: Float[Array, "*features"]


def update_running_statistics(
    running: RunningStatistics, batch: Moments, *, momentum: float = 0.99, unbiased: bool = False
) -> RunningStatistics:
    r"""One step of the exponential moving averages, :math:`r \leftarrow \alpha r + (1 - \alpha) b`.

    Args:
      running: the averages so far, one entry a feature.
      batch: moments of the batch (or of all micro-batches of a step, merged).
      momentum: share of the old value, alpha.
      unbiased: average the variance with m/(m-1), as Algorithm 2 of the paper (and PyTorch) has it;
        False averages the biased variance, as Flax does.

    Returns:
      The new averages; features whose batch was empty keep the old ones.

    Example:
      >>> old = RunningStatistics(jnp.zeros(1), jnp.ones(1))
      >>> new = update_running_statistics(old, moments(jnp.array([[1.0], [3.0]]), (0,)), momentum=0.5, unbiased=True)
      >>> print(new.mean, new.variance)
      [1.] [1.5]

    References:
      Ioffe, Szegedy, `Batch Normalization <https://arxiv.org/abs/1502.03167>`_, 2015.
    """
    variance = batch.unbiased_variance if unbiased else batch.variance

    return RunningStatistics(
        moving_average(running.mean, batch.mean, momentum, batch.count),
        moving_average(running.variance, variance, momentum, batch.count),
    )


class _Form(NamedTuple):
    """What is fixed when the normalization is traced."""

    axes: tuple[int, ...]
    epsilon: float
    axis_name: AxisName
    axis_index_groups: AxisIndexGroups
    use_fast_variance: bool
    dtype: Any


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _batch_norm(form: _Form, x: Array, mask: Array | None, scale: Array | None, bias: Array | None):
    stats = _batch_moments(form, x, mask)
    if mask is not None:
        y = _affine(_standardize(form, x, mask, stats), scale, bias, form.axes)
        return y.astype(form.dtype), stats
    dtype = stats.mean.dtype
    gain = _gain(form, stats, scale)
    y = (x.astype(dtype) - _spread(form, stats.mean)) * _spread(form, gain)
    return _affine(y, None, bias, form.axes).astype(form.dtype), stats


@_batch_norm.defjvp
def _batch_norm_jvp(form: _Form, primals: tuple, tangents: tuple):
    x, mask, scale, _ = primals
    dx, _, dscale, dbias = tangents
    y, stats = _batch_norm(form, *primals)
    dtype = stats.mean.dtype
    dx = dx.astype(dtype)
    gain, deviation = _gain(form, stats, scale), _deviation(form, stats)
    count = jnp.maximum(stats.count, 1).astype(dtype)
    if mask is None:
        wide = x.astype(dtype)
        total, product = dx.sum(form.axes), (jnp.conj(wide) * dx).sum(form.axes)
        # A feature whose deviations are rounding alone is constant: what is left of its sums would be noise.
        resolution = 4 * jnp.finfo(dtype).eps * jnp.abs(stats.mean)
        divisor = jnp.where(stats.variance > lax.square(resolution), deviation, jnp.inf)
        projection = jnp.real(product - jnp.conj(stats.mean) * total) / divisor
    else:
        standard, counted = _standardize(form, x, mask, stats), jnp.where(mask, dx, 0)
        total, projection = counted.sum(form.axes), jnp.real(jnp.conj(standard) * counted).sum(form.axes)
    total, projection = _sum_over_devices(form, total, projection)

    # dy = gain * (dx - mean(dx) - standard * mean(standard * dx)) + dscale * standard + dbias, grouped by feature:
    # the transpose then sums the cotangent g and g * x (or g * standard) once, for x, scale and bias together.
    offset = -gain * (total / count)
    slope = _plus(-gain * (projection.astype(dtype) / count), dscale)
    if mask is None:
        # The mean is in the offset and not taken from x: XLA sums g * x faster than g * (x - mean), and what it costs
        # in digits is what the rounding of x does.
        slope = slope / divisor.astype(dtype)
        offset = _plus(offset, dbias) - stats.mean * slope
        dy = _spread(form, gain) * dx + wide * _spread(form, slope) + _spread(form, offset)
    else:
        moved = jnp.where(_usable(x, mask), _spread(form, gain) * dx + _spread(form, offset), 0)
        dy = moved + standard * _spread(form, slope)
        if dbias is not None:
            dy = dy + _spread(form, dbias.astype(dtype))
    dstats = Moments(jnp.zeros_like(stats.count), total / count, 2 * projection * deviation)
    return (y, stats), (dy.astype(form.dtype), dstats)


def _deviation(form: _Form, stats: Moments) -> Array:
    # Kept from zero, and from XLA, which would repeat the reciprocal of a plain square root for every value.
    return jnp.maximum(jnp.sqrt(stats.variance + form.epsilon), jnp.finfo(stats.variance.dtype).tiny)


def _gain(form: _Form, stats: Moments, scale: Array | None) -> Array:
    """gamma / sqrt(variance + epsilon), one entry a feature."""
    deviation = _deviation(form, stats).astype(stats.mean.dtype)
    return (jnp.ones_like(deviation) if scale is None else scale.astype(deviation.dtype)) / deviation


def _batch_moments(form: _Form, x: Array, mask: Array | None) -> Moments:
    return moments(
        x,
        form.axes,
        mask=mask,
        axis_name=form.axis_name,
        axis_index_groups=form.axis_index_groups,
        use_fast_variance=form.use_fast_variance,
    )


def _standardize(form: _Form, x: Array, mask: Array, stats: Moments) -> Array:
    y = x.astype(stats.mean.dtype) - _spread(form, stats.mean)
    y = y * _spread(form, lax.rsqrt(stats.variance + form.epsilon).astype(y.dtype))
    # NaN or infinity in padding would poison the sums of the gradient (0 * NaN), so it counts as the mean.
    return jnp.where(_usable(x, mask), y, 0)


def _usable(x: Array, mask: Array) -> Array:
    return mask | jnp.isfinite(x)


def _sum_over_devices(form: _Form, total: Array, projection: Array) -> tuple[Array, Array]:
    if form.axis_name is None:
        return total, projection
    packed = jnp.stack([total, projection.astype(total.dtype)])
    packed = lax.psum(packed, form.axis_name, axis_index_groups=form.axis_index_groups)
    return packed[0], jnp.real(packed[1])


def _plus(a: Array, b: Array | None) -> Array:
    return a if b is None else a + b.astype(a.dtype)


def _spread(form: _Form, feature: Array) -> Array:
    return jnp.expand_dims(feature, form.axes)


def _affine(y: Array, scale: Array | None, bias: Array | None, axes: tuple[int, ...]) -> Array:
    if scale is not None:
        y = y * jnp.expand_dims(scale.astype(y.dtype), axes)
    if bias is not None:
        y = y + jnp.expand_dims(bias.astype(y.dtype), axes)
    return y


def _check(x: Array, features: tuple[int, ...], epsilon: float, **parameters: Array | None) -> None:
    if epsilon < 0:
        raise ValueError(f"epsilon={epsilon} is negative; use 0 or more.")
    expected = tuple(x.shape[axis] for axis in features)
    for name, value in parameters.items():
        if value is not None and value.shape != expected:
            raise ValueError(
                f"{name} of shape {value.shape} does not fit the features of the input; use shape {expected}."
            )
