"""Count, mean and sums of products of deviations of a batch, in groups of features."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from normjax.functional.groups import gram_of_groups, groups_of
from normjax.functional.moments import (
    AxisIndexGroups,
    AxisName,
    Moments,
    expand_mask,
    gather,
    merge,
    moments,
    pooled_mean,
    statistics_dtype,
)


class Comoments(NamedTuple):
    """What the covariance of the features of each group is made of; the matrices' counterpart of ``Moments``."""

    count: Float[Array, ""]  # type: ignore[assignment]  # vectors seen; 0 where all were masked out
    mean: Float[Array, " features"]
    comoment: Float[Array, "groups size size"]  # sum of (x - mean)(x - mean)^T of each group of features

    @property
    def covariance(self) -> Float[Array, "groups size size"]:
        """Biased covariance of each group; zeros where the count is 0."""
        return self.comoment / jnp.maximum(self.count, 1)

    @property
    def unbiased_covariance(self) -> Float[Array, "groups size size"]:
        """Unbiased covariance of each group; zeros where the count is below 2."""
        return self.comoment / jnp.maximum(self.count - 1, 1)


Statistics = Moments | Comoments  # what a batch gives


def comoments(
    x: Float[Array, "... features"],
    group_size: int,
    *,
    mask: Bool[Array, "..."] | None = None,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
) -> Comoments:
    r"""Count, mean and sums of products of deviations over all axes but the last, of all devices together.

    .. math:: n = \sum_i 1, \qquad \mu = \frac1n \sum_i x_i, \qquad M_g = \sum_i (x_i - \mu)_g (x_i - \mu)_g^T.

    The mean is taken first, so nothing cancels, however far the data lie from zero. Devices exchange
    their comoments in one gather (for each named axis) and merge them weighted by count.

    Args:
      x: real values, features along the last axis.
      group_size: features of a group, which are neighbours; must divide the features.
      mask: broadcastable to ``x`` with one entry for all features, True where a vector counts.
      axis_name: the mapped axis (or axes) whose devices share their comoments.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.

    Returns:
      Comoments, equal on all devices of a group.

    Raises:
      TypeError: the input is of integers.
      ValueError: ``group_size`` does not divide the features, or the mask tells them apart or does not broadcast to
        ``x``.

    Example:
      >>> print(comoments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), 2).covariance)
      [[[1. 2.]
        [2. 4.]]]

    References:
      Chan, Golub, LeVeque, `Updating formulae and a pairwise algorithm for computing sample variances`, 1979.
    """
    mask = expand_mask(mask, x)
    if mask is not None and mask.shape[-1] != 1:
        raise ValueError(f"mask of shape {mask.shape} tells features apart; give it 1 as the size of the last axis.")
    features = x.shape[-1]
    groups_of(features, group_size)
    x = x.astype(statistics_dtype(x.dtype))
    axes = tuple(range(x.ndim - 1))
    first = moments(x, axes, mask=mask)
    deviations = x - jnp.expand_dims(first.mean, axes)
    if mask is not None:
        deviations = jnp.where(mask, deviations, 0)
    comoment = gram_of_groups(deviations, group_size)
    count = first.count[0] if features else jnp.zeros((), x.dtype)
    local = Comoments(count, first.mean, comoment)
    if axis_name is None:
        return local
    return merge_comoments_of_devices(local, axis_name, axis_index_groups)


def merge_comoments(a: Comoments, b: Comoments) -> Comoments:
    r"""Comoments of the union of two disjoint sets, as ``merge`` for ``Moments``.

    With :math:`\delta = \mu_b - \mu_a` and :math:`n = n_a + n_b`,

    .. math:: \mu = \mu_a + \delta\, n_b / n, \qquad M = M_a + M_b + \delta \delta^T n_a n_b / n.

    Args:
      a: comoments of the first set.
      b: comoments of the second set, same groups.

    Returns:
      The comoments of both together; an empty side leaves the other unchanged.

    Example:
      >>> x = jnp.arange(12.0).reshape(6, 2) ** 2
      >>> both = merge_comoments(comoments(x[:2], 2), comoments(x[2:], 2))
      >>> bool(jnp.allclose(both.comoment, comoments(x, 2).comoment))
      True

    References:
      Chan, Golub, LeVeque, `Updating formulae and a pairwise algorithm for computing sample variances`, 1979.
    """
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1)
    delta = b.mean - a.mean
    between = _outer(delta.reshape(a.comoment.shape[:2])) * (a.count * share)
    return Comoments(count, a.mean + delta * share, a.comoment + b.comoment + between)


def union(a: Statistics, b: Statistics) -> Statistics:
    """Moments or comoments of the union of two disjoint sets, whichever both are."""
    if isinstance(a, Comoments) and isinstance(b, Comoments):
        return merge_comoments(a, b)
    return merge(Moments(*a), Moments(*b))


def variances(stats: Comoments) -> Moments:
    """The moments of each feature alone: the diagonals of the comoments.

    Args:
      stats: comoments of groups of features.

    Returns:
      Moments with one entry a feature.

    Example:
      >>> print(variances(comoments(jnp.array([[1.0, 2.0], [3.0, 6.0]]), 2)).variance)
      [1. 4.]
    """
    diagonal = jnp.diagonal(stats.comoment, axis1=-2, axis2=-1).reshape(-1)
    return Moments(jnp.broadcast_to(stats.count, diagonal.shape), stats.mean, diagonal)


def merge_comoments_of_devices(local: Comoments, axis_name: AxisName, groups: AxisIndexGroups = None) -> Comoments:
    """The comoments of all devices of ``axis_name`` together, by one gather."""
    packed = jnp.concatenate([local.count[None], local.mean, local.comoment.reshape(-1)])
    gathered = gather(packed, axis_name, groups)
    features = local.mean.shape[0]
    counts, means = gathered[:, 0], gathered[:, 1 : 1 + features]
    parts = gathered[:, 1 + features :].reshape(-1, *local.comoment.shape)
    count, mean = pooled_mean(counts[:, None], means)
    deviations = (means - mean[None]).reshape(-1, *local.comoment.shape[:2])
    between = (counts[:, None, None, None] * _outer(deviations)).sum(0)
    return Comoments(count[0], mean, parts.sum(0) + between)


def _outer(x: Array) -> Array:
    return x[..., :, None] * x[..., None, :]
