"""Penalties that make kernels sparse, and their proximal operators."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from normjax.functional.moments import canonical_axes, statistics_dtype

SparsityRule = Literal["exact", "cges"]


def exclusive_sparsity(kernel: Float[Array, "..."], axis: int | Sequence[int] = -1) -> Float[Array, ""]:
    r"""The squared L1,2 norm of a kernel: the weights of a group compete with each other.

    .. math:: \Omega(w) = \tfrac12 \sum_g \Big( \sum_{i \in g} |w_{gi}| \Big)^2 .

    A weight pays more, the larger the others of its group are, so that few remain in each group and no group
    dies out. With the default axis a group holds the weights of one input to all outputs, where the layer has one
    feature group and its outputs last.

    Args:
      kernel: weights; the last axis of a Flax kernel is that of the outputs.
      axis: the axis or axes along which the members of a group lie.

    Returns:
      The penalty, at least float32.

    Raises:
      ValueError: an axis is out of range, or the kernel is not of a real floating type.

    Example:
      >>> print(exclusive_sparsity(jnp.array([[3.0, -2.0, 1.0]])))
      18.0

    References:
      Zhou, Jin, Hoi, `Exclusive Lasso for Multi-task Feature Selection
      <https://proceedings.mlr.press/v9/zhou10a.html>`_, 2010.
      Yoon, Hwang, `Combined Group and Exclusive Sparsity for Deep Neural Networks
      <https://proceedings.mlr.press/v70/yoon17a.html>`_, 2017.
    """
    wide = _wide(kernel)
    return 0.5 * jnp.square(jnp.abs(wide).sum(canonical_axes(kernel.ndim, axis))).sum()


def group_sparsity(kernel: Float[Array, "..."], axis: int | Sequence[int] = -1) -> Float[Array, ""]:
    r"""The L2,1 norm of a kernel (group lasso): whole groups go to zero.

    .. math:: \Omega(w) = \sum_g \| w_g \|_2 .

    Args:
      kernel: weights; the last axis of a Flax kernel is that of the outputs.
      axis: the axis or axes along which the members of a group lie.

    Returns:
      The penalty, at least float32; its gradient is 0 at a group of zeros.

    Raises:
      ValueError: an axis is out of range, or the kernel is not of a real floating type.

    Example:
      >>> print(group_sparsity(jnp.array([[3.0, 4.0], [0.0, 0.0]])))
      5.0

    References:
      Yuan, Lin, `Model selection and estimation in regression with grouped variables
      <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006.
    """
    return norm(_wide(kernel), canonical_axes(kernel.ndim, axis)).sum()


def prox_exclusive_sparsity(
    kernel: Float[Array, "..."],
    strength: float | Float[Array, ""],
    axis: int | Sequence[int] = -1,
    rule: SparsityRule = "exact",
) -> Float[Array, "..."]:
    r"""The proximal operator of exclusive sparsity: small weights of each group become exact zeros.

    .. math::
        \arg\min_u \tfrac12 \|u - w\|^2 + \tfrac\lambda2 \sum_g \Big( \sum_{i \in g} |u_{gi}| \Big)^2
        = \mathrm{sign}(w) \max(|w| - \tau_g, 0), \qquad
        \tau_g = \lambda \sum_{i \in g} \max(|w_{gi}| - \tau_g, 0) .

    With the K members that survive, :math:`\tau_g = \lambda \sum_{i \le K} |w_{gi}| / (1 + \lambda K)`. The largest
    member always survives, so no group dies out. ``cges`` is the step of the CGES authors' code, which puts
    :math:`\tau_g = \lambda \sum_i |w_{gi}|`: not a proximal operator, it empties a group once
    :math:`\lambda \sum_i |w_{gi}|` reaches its largest member.

    Args:
      kernel: weights; the last axis of a Flax kernel is that of the outputs.
      strength: :math:`\lambda`, 0 or more; times the learning rate after an optimizer's step.
      axis: the axis or axes along which the members of a group lie.
      rule: ``exact`` or ``cges``.

    Returns:
      The new weights, shape and type of ``kernel``. The derivative is that of the formula, with 0 where the
      weight became 0. What is not finite in a group is not finite in the result.

    Raises:
      ValueError: an axis is out of range, the strength negative or not finite, the rule not known, or the kernel not
        of a real floating type.

    Example:
      >>> print(prox_exclusive_sparsity(jnp.array([3.0, -2.0, 1.0]), 0.5))
      [ 1.75 -0.75  0.  ]

    References:
      Yoon, Hwang, `Combined Group and Exclusive Sparsity for Deep Neural Networks
      <https://proceedings.mlr.press/v70/yoon17a.html>`_, 2017 (the penalty; their rule differs from the operator).
    """
    check_strength(strength)
    check_rule(rule)
    members = canonical_axes(kernel.ndim, axis)
    wide = _wide(kernel)
    size, strength = jnp.abs(wide), jnp.asarray(strength, wide.dtype)
    if rule == "cges":
        threshold = strength * size.sum(members, keepdims=True)
        active = _exceeds(size, threshold)
    else:
        active = _survivors(lax.stop_gradient(size), lax.stop_gradient(strength), members)
        threshold = _threshold(size, active, strength, members)
    return jnp.where(active, wide - jnp.sign(wide) * threshold, 0).astype(kernel.dtype)


def prox_group_sparsity(
    kernel: Float[Array, "..."], strength: float | Float[Array, ""], axis: int | Sequence[int] = -1
) -> Float[Array, "..."]:
    r"""The proximal operator of group sparsity: each group shrinks, and small ones become exact zeros.

    .. math:: w_g \leftarrow \max\Big( 1 - \frac{\lambda}{\| w_g \|_2}, 0 \Big)\, w_g .

    Args:
      kernel: weights; the last axis of a Flax kernel is that of the outputs.
      strength: :math:`\lambda`, 0 or more; times the learning rate after an optimizer's step.
      axis: the axis or axes along which the members of a group lie.

    Returns:
      The new weights, shape and type of ``kernel``; a group of zeros stays one. A weight that is not finite stays so.

    Raises:
      ValueError: an axis is out of range, the strength negative or not finite, or the kernel not of a real floating
        type.

    Example:
      >>> print(prox_group_sparsity(jnp.array([[3.0, 4.0], [0.3, 0.4]]), 1.0))
      [[2.4 3.2]
       [0.  0. ]]

    References:
      Parikh, Boyd, `Proximal Algorithms <https://web.stanford.edu/~boyd/papers/prox_algs.html>`_, 2014, section 6.5.
    """
    check_strength(strength)
    wide = _wide(kernel)
    length = norm(wide, canonical_axes(kernel.ndim, axis), keepdims=True)
    survives = _exceeds(length, jnp.asarray(strength))
    return jnp.where(survives, wide - strength * wide / jnp.where(survives, length, 1), 0).astype(kernel.dtype)


def prox_l1(kernel: Float[Array, "..."], strength: float | Float[Array, ""]) -> Float[Array, "..."]:
    r"""The proximal operator of the L1 norm: every weight comes nearer to zero by as much.

    .. math:: w \leftarrow \mathrm{sign}(w) \max(|w| - \lambda, 0) .

    Args:
      kernel: weights.
      strength: :math:`\lambda`, 0 or more; times the learning rate after an optimizer's step.

    Returns:
      The new weights, shape and type of ``kernel``. A weight that is not finite stays so.

    Raises:
      ValueError: the strength is negative or not finite, or the kernel not of a real floating type.

    Example:
      >>> print(prox_l1(jnp.array([3.0, -2.0, 0.5]), 1.0))
      [ 2. -1.  0.]

    References:
      Parikh, Boyd, `Proximal Algorithms <https://web.stanford.edu/~boyd/papers/prox_algs.html>`_, 2014, section 6.5.
    """
    check_strength(strength)
    wide = _wide(kernel)
    survives = _exceeds(jnp.abs(wide), jnp.asarray(strength))
    return jnp.where(survives, wide - jnp.sign(wide) * strength, 0).astype(kernel.dtype)


def check_strength(strength: Any, name: str = "strength") -> None:
    """ValueError where a strength that is known while tracing is not a number, negative or not finite."""
    if isinstance(strength, jax.core.Tracer):
        return
    scalar = isinstance(strength, Real) or getattr(strength, "shape", None) == ()
    if not scalar or not 0 <= float(strength) < math.inf:
        raise ValueError(f"{name}={strength!r} is out of range; use a finite number, 0 or more.")


def check_rule(rule: str) -> None:
    """ValueError where a rule is not known."""
    if rule not in ("exact", "cges"):
        raise ValueError(f"rule={rule!r} is not known; use 'exact' or 'cges'.")


def check_real(kernel: Array) -> None:
    """ValueError where the weights are not real floating-point numbers."""
    if not jnp.issubdtype(kernel.dtype, jnp.floating):
        raise ValueError(f"kernel of type {kernel.dtype} is not real; use a floating-point type.")


def norm(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """The L2 norm along the axes, with derivative 0 where it is 0."""
    squares = jnp.square(x).sum(axes, keepdims=keepdims)
    return jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))


def _wide(kernel: Array) -> Array:
    check_real(kernel)
    return kernel.astype(statistics_dtype(kernel.dtype))


def _exceeds(size: Array, threshold: Array) -> Array:
    """Where a size is above its threshold, or not finite: what overflowed must not pass for a zero."""
    return ~(size <= threshold) | jnp.isinf(size)


def _threshold(size: Array, active: Array, strength: Array, members: tuple[int, ...]) -> Array:
    """tau, if the active members are those that survive."""
    count = active.sum(members, keepdims=True, dtype=size.dtype)
    return jnp.where(active, size, 0).sum(members, keepdims=True) * (strength / (1 + strength * count))


def _survivors(size: Array, strength: Array, members: tuple[int, ...]) -> Array:
    """Which members of each group exceed its tau.

    From all on, the threshold of those left is a lower bound of tau that rises as members fall (Newton's method on a
    convex, piecewise linear equation); it ends, exactly, where none falls. XLA sorts slowly on CPU.
    """

    def fall(state: tuple[Array, Array]) -> tuple[Array, Array]:
        active, _ = state
        left = active & _exceeds(size, _threshold(size, active, strength, members))
        return left, (left != active).any()

    return lax.while_loop(lambda state: state[1], fall, (_exceeds(size, jnp.zeros((), size.dtype)), jnp.array(True)))[0]
