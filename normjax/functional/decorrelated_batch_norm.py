"""Decorrelated batch normalization: whitening by the covariance of the batch."""

import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact

from normjax.functional.affine import affine, check_affine
from normjax.functional.comoments import Comoments, comoments
from normjax.functional.groups import groups_of, products_of_groups, times_groups
from normjax.functional.moments import AxisIndexGroups, AxisName, expand_mask, moving_average, statistics_dtype
from normjax.functional.whitening import Method, check_whitening, inverse_sqrt, whiten


class DecorrelatedStatistics(NamedTuple):
    """Exponential moving averages of the mean and of the covariance; the matrix is computed from them."""

    mean: Float[Array, " features"]
    covariance: Float[Array, "groups size size"]


def decorrelated_batch_norm(
    x: Inexact[Array, "..."],
    scale: Float[Array, " features"] | None = None,
    bias: Float[Array, " features"] | None = None,
    *,
    group_size: int | None = 16,
    method: Method = "newton",
    iterations: int = 5,
    axis: int = -1,
    mask: Bool[Array, "..."] | None = None,
    epsilon: float = 1e-5,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    dtype: Any = None,
) -> tuple[Float[Array, "..."], Comoments]:
    r"""Centres the features and whitens each group of neighbours by its covariance over the batch.

    With the mean and the biased covariance :math:`\Sigma_g` over all axes but ``axis``, of all devices
    of ``axis_name`` together,

    .. math:: y_g = \gamma_g \odot (\Sigma_g + \epsilon I)^{-1/2} (x - \mu)_g + \beta_g.

    Across devices the forward pass takes one collective and the derivative another.

    Args:
      x: real activations, features along ``axis``.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      group_size: channels that are whitened together, the side of the matrices; None is all of them.
      method: ``newton`` (iterative normalization) or ``eigh`` (ZCA).
      iterations: of Newton.
      axis: the feature axis; all others are reduced.
      mask: broadcastable to ``x`` with one entry for all features, True where a vector counts. The others
        are normalised too; where one is NaN or infinite it is treated as the mean.
      epsilon: added to the diagonal of the covariance.
      axis_name: the mapped axis (or axes) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The whitened activations, shape of ``x``, and the comoments they were whitened by.

    Raises:
      TypeError: the input is complex or of integers.
      ValueError: ``group_size`` does not divide the channels, the mask tells channels apart, ``scale`` or
        ``bias`` does not fit, or an option is out of range.

    Example:
      >>> x = jax.random.normal(jax.random.key(0), (100, 2)) @ jnp.array([[2.0, 1.0], [0.0, 1.0]])
      >>> y, _ = decorrelated_batch_norm(x, group_size=2, method="eigh")
      >>> print(jnp.abs(jnp.cov(y.T, bias=True)).round(3))
      [[1. 0.]
       [0. 1.]]

    References:
      Huang, Yang, Lang, Deng, `Decorrelated Batch Normalization <https://arxiv.org/abs/1804.08450>`_, 2018.
      Huang, Zhou, Zhu, Liu, Shao, `Iterative Normalization <https://arxiv.org/abs/1904.03441>`_, 2019.
    """
    if jnp.iscomplexobj(x):
        raise TypeError(f"decorrelated_batch_norm takes real input; x is {x.dtype}.")
    statistics_dtype(x.dtype)
    check_whitening(method, iterations, epsilon)
    x, mask = features_last(x, axis), features_last(expand_mask(mask, x), axis)
    _, size = groups_of(x.shape[-1], group_size)
    check_affine(x, scale, bias)
    groups = None if axis_index_groups is None else tuple(tuple(int(i) for i in group) for group in axis_index_groups)
    form = _Form(size, method, iterations, float(epsilon), axis_name, groups)
    standard, stats = _whiten_batch(form, x, mask)
    y = affine(standard, scale, bias).astype(dtype or x.dtype)
    return jnp.moveaxis(y, -1, axis), stats


def decorrelate(
    x: Float[Array, "..."],
    running: DecorrelatedStatistics,
    scale: Float[Array, " features"] | None = None,
    bias: Float[Array, " features"] | None = None,
    *,
    method: Method = "newton",
    iterations: int = 5,
    axis: int = -1,
    epsilon: float = 1e-5,
    dtype: Any = None,
) -> Float[Array, "..."]:
    r"""Whitens by given statistics: decorrelated batch normalization at inference.

    .. math:: y_g = \gamma_g \odot (\Sigma_g + \epsilon I)^{-1/2} (x - \mu)_g + \beta_g.

    Args:
      x: real activations, features along ``axis``.
      running: mean and covariance of the population.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      method: as in training.
      iterations: as in training.
      axis: the feature axis.
      epsilon: added to the diagonal of the covariance.
      dtype: type of the output; None is the type of ``x``.

    Returns:
      The whitened activations, shape of ``x``.

    Example:
      >>> running = DecorrelatedStatistics(jnp.ones(2), 4 * jnp.eye(2)[None])
      >>> print(decorrelate(jnp.array([[3.0, 5.0]]), running, method="eigh", epsilon=0.0))
      [[1. 2.]]
    """
    x = features_last(x, axis)
    check_affine(x, scale, bias)
    matrix = inverse_sqrt(running.covariance, method, iterations, epsilon)
    y = affine(whiten(x, running.mean, matrix), scale, bias).astype(dtype or x.dtype)
    return jnp.moveaxis(y, -1, axis)


def update_decorrelated_statistics(
    running: DecorrelatedStatistics, batch: Comoments, *, momentum: float = 0.99
) -> DecorrelatedStatistics:
    r"""One step of the exponential moving averages, :math:`r \leftarrow \alpha r + (1 - \alpha) b`.

    Args:
      running: the averages so far.
      batch: comoments of the batch (or of all micro-batches of a step, merged).
      momentum: share of the old value, alpha.

    Returns:
      The new averages; the old ones where the batch was empty.

    Example:
      >>> old = DecorrelatedStatistics(jnp.zeros(1), jnp.ones((1, 1, 1)))
      >>> new = update_decorrelated_statistics(old, comoments(jnp.array([[1.0], [5.0]]), 1), momentum=0.5)
      >>> print(new.mean, new.covariance.ravel())
      [1.5] [2.5]
    """

    return DecorrelatedStatistics(
        moving_average(running.mean, batch.mean, momentum, batch.count),
        moving_average(running.covariance, batch.covariance, momentum, batch.count),
    )


def features_last(x: Any, axis: int) -> Any:
    """The array (or None) with its feature axis at the end; ValueError where there is no such axis."""
    if x is None:
        return None
    if not hasattr(axis, "__index__") or not -x.ndim <= operator.index(axis) < x.ndim:
        raise ValueError(f"axis={axis} is no single axis of an input of {x.ndim} dimensions.")
    return jnp.moveaxis(x, axis, -1)


class _Form(NamedTuple):
    """What is fixed when the normalization is traced."""

    group_size: int
    method: Method
    iterations: int
    epsilon: float
    axis_name: AxisName
    axis_index_groups: AxisIndexGroups


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _whiten_batch(form: _Form, x: Array, mask: Array | None) -> tuple[Array, Comoments]:
    stats = _batch_comoments(form, x, mask)
    matrix = inverse_sqrt(stats.covariance, form.method, form.iterations, form.epsilon)
    return times_groups(_centred(x, mask, stats), matrix), stats


@_whiten_batch.defjvp
def _whiten_batch_jvp(form: _Form, primals: tuple, tangents: tuple):
    (x, mask), (dx, _) = primals, tangents
    stats = _batch_comoments(form, x, mask)
    centred = _centred(x, mask, stats)
    dx = dx.astype(centred.dtype)
    counted, counted_centred = dx, centred
    if mask is not None:
        counted = jnp.where(mask, dx, 0)
        counted_centred = jnp.where(mask, centred, 0)
    # Deviations sum to zero, so a moving mean does not move the comoment.
    total = counted.sum(tuple(range(x.ndim - 1)))
    product = products_of_groups(counted_centred, counted, form.group_size)
    total, product = _sum_over_devices(form, total, product)
    count = jnp.maximum(stats.count, 1)
    dcomoment = product + jnp.swapaxes(product, -1, -2)
    matrix, dmatrix = jax.jvp(
        lambda covariance: inverse_sqrt(covariance, form.method, form.iterations, form.epsilon),
        (stats.covariance,),
        (dcomoment / count,),
    )
    dmean = total / count
    dcentred = dx - dmean.reshape((1,) * (x.ndim - 1) + (-1,))
    if mask is not None:
        dcentred = jnp.where(mask | jnp.isfinite(x), dcentred, 0)
    y, dy = jax.jvp(times_groups, (centred, matrix), (dcentred, dmatrix))
    dstats = Comoments(jnp.zeros_like(stats.count), dmean, dcomoment)
    return (y, stats), (dy, dstats)


def _batch_comoments(form: _Form, x: Array, mask: Array | None) -> Comoments:
    return comoments(x, form.group_size, mask=mask, axis_name=form.axis_name, axis_index_groups=form.axis_index_groups)


def _centred(x: Array, mask: Array | None, stats: Comoments) -> Array:
    """Deviations from the mean; NaN and infinity in padding count as the mean."""
    y = x.astype(stats.mean.dtype) - stats.mean.reshape((1,) * (x.ndim - 1) + (-1,))
    if mask is not None:
        return jnp.where(mask | jnp.isfinite(x), y, 0)
    return y


def _sum_over_devices(form: _Form, total: Array, product: Array) -> tuple[Array, Array]:
    if form.axis_name is None:
        return total, product
    packed = jnp.concatenate([total, product.reshape(-1)])
    packed = lax.psum(packed, form.axis_name, axis_index_groups=form.axis_index_groups)
    return packed[: total.size], packed[total.size :].reshape(product.shape)
