"""Reference-batch normalization: the statistics of one fixed batch take part in normalising all others."""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from normjax.functional.batch_norm import normalize
from normjax.functional.batch_renorm import RenormStatistics, batch_renorm
from normjax.functional.moments import (
    AxisIndexGroups,
    AxisName,
    Moments,
    canonical_axes,
    expand_mask,
    merge,
    moments,
    statistics_dtype,
)

ReferenceMode = Literal["virtual", "mixed", "fixed", "renorm"]


def reference_batch_norm(
    x: Float[Array, "batch *rest"],
    reference: Moments,
    scale: Float[Array, "*features"] | None = None,
    bias: Float[Array, "*features"] | None = None,
    *,
    mode: ReferenceMode = "virtual",
    examples: float | Float[Array, ""] | None = None,
    alpha: float | None = None,
    r_max: float | Float[Array, ""] = 3.0,
    d_max: float | Float[Array, ""] = 5.0,
    axis: int | Sequence[int] = -1,
    mask: Bool[Array, "..."] | None = None,
    epsilon: float = 1e-5,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    dtype: Any = None,
) -> Float[Array, "batch *rest"]:
    r"""Normalises a batch with the help of the moments of a reference batch.

    .. math:: y = \gamma\, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta,

    where :math:`\mu, \sigma^2` are, by ``mode``,

    - ``virtual``: those of the reference batch and the example itself together. With n examples in the
      reference batch the example weighs :math:`c = 1 / (n + 1)`, whatever its size; no other example matters.
    - ``mixed``: those of the reference batch and the whole batch together, each value counting once, or with
      ``alpha`` of :math:`\mu = \alpha \mu_r + (1 - \alpha) \mu_B` and raw second moments mixed alike, which is
      :math:`\sigma^2 = \alpha \sigma_r^2 + (1 - \alpha) \sigma_B^2 + \alpha (1 - \alpha) (\mu_r - \mu_B)^2`.
    - ``fixed``: those of the reference batch alone.
    - ``renorm``: those of the batch, corrected towards the reference as batch renormalization does.

    Luo, Li and Zuo give the idea and no formula: the modes are our reconstruction. ``virtual`` is virtual
    batch normalization, ``mixed`` the plain reading of their abstract.

    Args:
      x: real activations, examples along the first axis, features along ``axis``.
      reference: moments of each feature over the reference batch, of all devices.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      mode: how the two are put together.
      examples: n, examples in the reference batch, for ``virtual``; None takes them to have been of the size of
        those in ``x``.
      alpha: share of the reference in ``mixed``, 0 to 1; None counts values.
      r_max: limit of ``renorm``, 1 or more.
      d_max: limit of ``renorm``, 0 or more.
      axis: the feature axis or axes; not the first.
      mask: broadcastable to ``x``, True where a value counts for the statistics.
      epsilon: added to the variance.
      axis_name: the mapped axis (or axes) whose devices share the statistics of the batch.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``.

    Raises:
      TypeError: the input is complex or of integers.
      ValueError: the mode is not known, ``alpha`` is out of range or without meaning in the mode, the reference
        has another number of features, or ``axis`` names the examples.

    Example:
      >>> reference = Moments(jnp.full(1, 64.0), jnp.zeros(1), jnp.full(1, 64.0))
      >>> print(reference_batch_norm(jnp.array([[5.0]]), reference).round(3))
      [[4.216]]

    References:
      Luo, Li, Zuo, `Improved batch normalization algorithm for deep learning`, Computer Systems &
      Applications 29(4):187-194, 2020 (the idea).
      Salimans, Goodfellow, Zaremba, Cheung, Radford, Chen, `Improved Techniques for Training GANs
      <https://arxiv.org/abs/1606.03498>`_, 2016 (virtual batch normalization).
    """
    features = _check(x, reference, mode, alpha, axis)
    reference = Moments(*(part.astype(statistics_dtype(x.dtype)) for part in reference))
    mask = expand_mask(mask, x)
    if mask is not None:
        # NaN or infinity in padding would poison the sums of the gradient (0 * NaN), so it counts as the mean.
        others = tuple(i for i in range(x.ndim) if i not in features)
        mean = lax.stop_gradient(jnp.expand_dims(reference.mean, others)).astype(x.dtype)
        x = jnp.where(mask | jnp.isfinite(x), x, mean)
    over_devices = {"axis_name": axis_name, "axis_index_groups": axis_index_groups}
    if mode == "renorm":
        running = RenormStatistics(reference.mean, jnp.sqrt(reference.variance + epsilon))
        options: dict[str, Any] = {"axis": features, "mask": mask, "epsilon": epsilon, "dtype": dtype, **over_devices}
        return batch_renorm(x, running, scale, bias, r_max=r_max, d_max=d_max, **options)[0]
    if mode == "virtual":

        def of_example(x: Array, mask: Array | None) -> Array:
            inside = tuple(axis - 1 for axis in features)
            positions = tuple(i for i in range(x.ndim) if i not in inside)
            own = moments(x, positions, mask=mask)
            if examples is not None:
                # As if the example had as many values as each of those in the reference.
                factor = reference.count / jnp.maximum(examples, 1) / jnp.maximum(own.count, 1)
                own = Moments(own.count * factor, own.mean, own.m2 * factor)
            both = merge(reference, own)
            return normalize(x, both.mean, both.variance, scale, bias, axis=inside, epsilon=epsilon, dtype=dtype)

        if mask is None:
            return jax.vmap(lambda x: of_example(x, None))(x)
        return jax.vmap(of_example)(x, jnp.broadcast_to(mask, (x.shape[0], *mask.shape[1:])))
    mean, variance = reference.mean, reference.variance
    if mode == "mixed":
        others = tuple(i for i in range(x.ndim) if i not in features)
        mean, variance = _mixed(reference, moments(x, others, mask=mask, **over_devices), alpha)
    return normalize(x, mean, variance, scale, bias, axis=features, epsilon=epsilon, dtype=dtype)


def _mixed(reference: Moments, batch: Moments, alpha: float | None) -> tuple[Array, Array]:
    if alpha is None:
        both = merge(reference, batch)
        return both.mean, both.variance
    # Where the batch counts no value the reference stands alone.
    share = jnp.where(batch.count > 0, alpha, 1).astype(reference.mean.dtype)
    apart = jnp.square(reference.mean - batch.mean)
    mean = share * reference.mean + (1 - share) * batch.mean
    return mean, share * reference.variance + (1 - share) * batch.variance + share * (1 - share) * apart


def check_mode(mode: str, alpha: float | None) -> None:
    """Raises ValueError where the mode is not known, or ``alpha`` is out of range or without meaning in it."""
    if mode not in ("virtual", "mixed", "fixed", "renorm"):
        raise ValueError(f"mode={mode!r} is not known; use 'virtual', 'mixed', 'fixed' or 'renorm'.")
    if alpha is not None:
        if mode != "mixed":
            raise ValueError(f"alpha={alpha} has no meaning with mode={mode!r}; it is for mode='mixed'.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha={alpha} is out of range; use 0 to 1.")


def _check(x: Array, reference: Moments, mode: str, alpha: float | None, axis: int | Sequence[int]) -> tuple[int, ...]:
    if jnp.iscomplexobj(x):
        raise TypeError(f"reference_batch_norm takes real input; x is {x.dtype}.")
    check_mode(mode, alpha)
    features = canonical_axes(x.ndim, axis)
    if 0 in features:
        raise ValueError(f"axis={axis} names the first axis, which is that of the examples.")
    shape = tuple(x.shape[i] for i in features)
    if reference.mean.shape != shape:
        raise ValueError(f"the reference has features of shape {reference.mean.shape}, and the input has {shape}.")
    return features
