"""Batch renormalization: the batch's statistics, corrected towards the running ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, Int

from normjax.functional.batch_norm import batch_norm
from normjax.functional.moments import (
    AxisIndexGroups,
    AxisName,
    Moments,
    canonical_axes,
    moving_average,
    statistics_dtype,
)


class RenormStatistics(NamedTuple):
    """Exponential moving averages of the mean and of the standard deviation."""

    mean: Inexact[Array, "*features"]
    std: Float[Array, "*features"]  # of sqrt(variance + epsilon), not of the variance


def batch_renorm(
    x: Inexact[Array, "..."],
    running: RenormStatistics,
    scale: Inexact[Array, "*features"] | None = None,
    bias: Inexact[Array, "*features"] | None = None,
    *,
    r_max: float | Float[Array, ""] = 3.0,
    d_max: float | Float[Array, ""] = 5.0,
    axis: int | Sequence[int] = -1,
    mask: Bool[Array, "..."] | None = None,
    epsilon: float = 1e-5,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    use_fast_variance: bool = True,
    dtype: Any = None,
) -> tuple[Inexact[Array, "..."], Moments]:
    r"""Normalises by the batch, then moves and scales to where the running statistics would have put it.

    With the batch's :math:`\mu_B`, :math:`\sigma_B = \sqrt{\sigma_B^2 + \epsilon}` and the running
    :math:`\mu, \sigma`,

    .. math::
      r = \mathrm{clip}(\sigma_B / \sigma, 1 / r_{max}, r_{max}), \quad
      d = \mathrm{clip}((\mu_B - \mu) / \sigma, -d_{max}, d_{max}), \quad
      y = \gamma \left(\frac{x - \mu_B}{\sigma_B} r + d\right) + \beta.

    No gradient flows through r and d. With ``r_max=1`` and ``d_max=0`` this is batch normalization;
    without limits, training and inference give the same output.

    Args:
      x: activations, features along ``axis``.
      running: the averages before this batch, one entry a feature.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      r_max: limit of r, 1 or more.
      d_max: limit of d, 0 or more.
      axis: the feature axis or axes; all others are reduced.
      mask: broadcastable to ``x``, True where a value counts for the statistics.
      epsilon: added to the variance.
      axis_name: the mapped axis (or axes) whose devices share their statistics.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      use_fast_variance: one shifted pass for the variance (True), or two passes.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``, and the moments of the batch.

    Raises:
      TypeError: the input is complex: r and d have no order there.
      ValueError: a limit is out of range, or as ``batch_norm``.

    Example:
      >>> running = RenormStatistics(jnp.array([1.0]), jnp.array([2.0]))
      >>> y, _ = batch_renorm(jnp.array([[1.0], [5.0]]), running, epsilon=0.0)
      >>> print(y.ravel())
      [0. 2.]

    References:
      Ioffe, `Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized Models
      <https://arxiv.org/abs/1702.03275>`_, 2017.
    """
    if jnp.iscomplexobj(x):
        raise TypeError(f"batch_renorm takes real input; x is {x.dtype}, use batch_norm.")
    check_limits(r_max, d_max)
    wide = statistics_dtype(x.dtype)
    standard, batch = batch_norm(
        x,
        axis=axis,
        mask=mask,
        epsilon=epsilon,
        axis_name=axis_name,
        axis_index_groups=axis_index_groups,
        use_fast_variance=use_fast_variance,
        dtype=wide,
    )
    running = RenormStatistics(*(lax.stop_gradient(part.astype(wide)) for part in running))
    # Features whose batch was empty have no statistics to correct.
    empty = batch.count == 0
    ratio = jnp.sqrt(batch.variance + epsilon) / running.std
    shift = (batch.mean - running.mean) / running.std
    r = lax.stop_gradient(jnp.where(empty, 1, jnp.clip(ratio, 1 / r_max, r_max)))
    d = lax.stop_gradient(jnp.where(empty, 0, jnp.clip(shift, -d_max, d_max)))
    gain = r if scale is None else r * scale.astype(wide)
    offset = d if scale is None else d * scale.astype(wide)
    if bias is not None:
        offset = offset + bias.astype(wide)
    features = canonical_axes(x.ndim, axis)
    axes = tuple(i for i in range(x.ndim) if i not in features)
    y = standard * jnp.expand_dims(gain, axes) + jnp.expand_dims(offset, axes)
    return y.astype(dtype or x.dtype), batch


def check_limits(r_max: Any, d_max: Any) -> None:
    """Raises ValueError where a limit that is a number allows no batch norm."""
    for name, value, least in (("r_max", r_max, 1.0), ("d_max", d_max, 0.0)):
        if isinstance(value, int | float) and not value >= least:
            raise ValueError(f"{name}={value} is too small; use {least:g} or more.")


def renorm_limits(
    step: Int[Array, ""] | int,
    *,
    r_max: float = 3.0,
    d_max: float = 5.0,
    warmup_steps: int = 5_000,
    r_steps: int = 40_000,
    d_steps: int = 25_000,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""The limits at a step: batch normalization at first, then linearly relaxed, as the paper trains.

    .. math:: r_{max}(t) = 1 + (r_{max} - 1)\, \mathrm{clip}\big((t - t_0) / (t_r - t_0), 0, 1\big),

    and the same from 0 for d.

    Args:
      step: training steps so far, t.
      r_max: final limit of r.
      d_max: final limit of d.
      warmup_steps: steps of plain batch normalization, t_0.
      r_steps: step at which r reaches its limit, t_r; not before the warm-up ends.
      d_steps: step at which d reaches its limit.

    Returns:
      The limits of r and d at that step.

    Raises:
      ValueError: a limit or a number of steps is out of range.

    Example:
      >>> r, d = renorm_limits(22_500)
      >>> print(r, d)
      2.0 4.375

    References:
      Ioffe, `Batch Renormalization <https://arxiv.org/abs/1702.03275>`_, 2017, section 4.2.
    """
    check_limits(r_max, d_max)
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps={warmup_steps} is negative; use 0 or more.")
    for name, value in (("r_steps", r_steps), ("d_steps", d_steps)):
        if value < warmup_steps:
            raise ValueError(f"{name}={value} lies before the end of the warm-up; use {warmup_steps} or more.")
    t = jnp.asarray(step, jnp.float32)

    def progress(end: int) -> Array:
        return jnp.clip((t - warmup_steps + int(end == warmup_steps)) / max(end - warmup_steps, 1), 0, 1)

    return 1 + (r_max - 1) * progress(r_steps), d_max * progress(d_steps)


def update_renorm_statistics(
    running: RenormStatistics, batch: Moments, *, momentum: float = 0.99, epsilon: float = 1e-5
) -> RenormStatistics:
    r"""One step of the averages, of :math:`\mu_B` and of :math:`\sqrt{\sigma_B^2 + \epsilon}`.

    Args:
      running: the averages so far, one entry a feature.
      batch: moments of the batch.
      momentum: share of the old value.
      epsilon: added to the variance, as in the normalization.

    Returns:
      The new averages; features whose batch was empty keep the old ones.

    Example:
      >>> old = RenormStatistics(jnp.zeros(1), jnp.ones(1))
      >>> batch = Moments(jnp.array([2.0]), jnp.array([1.0]), jnp.array([18.0]))
      >>> new = update_renorm_statistics(old, batch, momentum=0.5, epsilon=0.0)
      >>> print(new.mean, new.std)
      [0.5] [2.]

    References:
      Ioffe, `Batch Renormalization <https://arxiv.org/abs/1702.03275>`_, 2017, Algorithm 1.
    """
    std = jnp.sqrt(batch.variance + epsilon)
    return RenormStatistics(
        moving_average(running.mean, batch.mean, momentum, batch.count),
        moving_average(running.std, std, momentum, batch.count),
    )
