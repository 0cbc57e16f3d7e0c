"""Structural weight normalization: what is measured of a network's structure takes part in normalising its weights."""

import inspect
import math
from numbers import Real
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from normjax.functional.affine import affine, check_affine
from normjax.functional.moments import statistics_dtype
from normjax.functional.orthogonal_weight_norm import orthogonal_weight_norm
from normjax.functional.sparsity import SparsityRule, check_rule, check_strength, norm, prox_exclusive_sparsity
from normjax.functional.weight_norm import check_kernel, weight_norm
from normjax.functional.whitening import Method, check_whitening, inverse_root

Measure = Literal["sparsity", "neuron"]
Base = Literal["orthogonal", "weight_norm", "none"]
Axis = Literal["input", "output"]

# The strength of each measure where none is given: a proximal step that leaves most weights, a full scaling.
DEFAULT_STRENGTHS: dict[str, float] = {"sparsity": 1e-3, "neuron": 1.0}

# The bases and measures with which an option has a meaning.
_MEANT_FOR: dict[str, tuple[str, tuple[str, ...]]] = {
    "strength": ("measure", ("sparsity", "neuron")),
    "axis": ("measure", ("sparsity", "neuron")),
    "rule": ("measure", ("sparsity",)),
    "min_scale": ("measure", ("neuron",)),
    "max_scale": ("measure", ("neuron",)),
    "group_size": ("base", ("orthogonal",)),
    "center": ("base", ("orthogonal",)),
    "method": ("base", ("orthogonal",)),
    "iterations": ("base", ("orthogonal",)),
}


def neuron_scale(
    kernel: Float[Array, "... outputs"],
    *,
    strength: float | Float[Array, ""] = 1.0,
    axis: Axis = "input",
    min_scale: float = 0.1,
    max_scale: float = 10.0,
    feature_group_count: int = 1,
    differentiable: bool = False,
) -> Float[Array, " units"]:
    r"""How much each unit is scaled up or down, by the length of its weights.

    With :math:`s_j` the L2 norm of the weights of unit j and n units,

    .. math:: d_j = \Big( \frac{s_j}{\sqrt{\frac1n \sum_k s_k^2}} \Big)^\alpha, \qquad
        \text{limited to } [d_{min}, d_{max}] .

    With :math:`\alpha = 1` and no limit reached the mean of :math:`d_j^2` is 1. The authors give "L2 norm of weight
    columns" and no formula: this is our reconstruction.

    Args:
      kernel: outputs along the last axis, inputs along the one before, as in Flax.
      strength: :math:`\alpha`, 0 or more; 0 scales nothing.
      axis: the units that are measured: ``input`` (the weights of one input to all outputs) or ``output``.
      min_scale: lower limit, above 0.
      max_scale: upper limit.
      feature_group_count: of a grouped convolution, which has as many inputs for each group.
      differentiable: whether the scale has a derivative; it is a constant otherwise.

    Returns:
      One scale for each input, feature group after feature group, or for each output; 1 for a kernel of zeros.

    Raises:
      ValueError: the strength is negative, the limits do not hold 1 between them, or the kernel has fewer than two
        axes.

    Example:
      >>> print(neuron_scale(jnp.array([[3.0, 4.0], [0.0, 5.0], [5.0, 5.0]])).round(4))
      [0.866  0.866  1.2247]

    References:
      Yuan, Shen, Mehta, Li, Ge, Zha, `Structure injected weight normalization for training deep networks
      <https://doi.org/10.1007/s00530-021-00793-7>`_, 2021 (the idea).
    """
    check_kernel(kernel)
    check_strength(strength)
    _check_limits(min_scale, max_scale)
    split = _split(kernel.astype(statistics_dtype(kernel.dtype)), feature_group_count)
    lengths = norm(split, _weights_of(split.ndim, axis))
    mean_square = jnp.square(lengths).mean()
    relative = lengths * inverse_root(mean_square)
    # A power has no derivative at 0.
    scale = jnp.clip(jnp.maximum(relative, 1e-30) ** strength, min_scale, max_scale)
    scale = jnp.where(mean_square == 0, 1, scale)
    scale = scale if differentiable else lax.stop_gradient(scale)
    # In the order of the layer's own inputs: those of a feature group are neighbours.
    return scale.T.reshape(-1) if axis == "input" else scale.reshape(-1)


def structural_weight_norm(
    kernel: Float[Array, "... outputs"],
    scale: Float[Array, " units"] | None = None,
    *,
    measure: Measure | None = None,
    base: Base = "orthogonal",
    strength: float | Float[Array, ""] | None = None,
    axis: Axis = "input",
    feature_group_count: int = 1,
    group_size: int | None = None,
    center: bool = True,
    method: Method = "newton",
    iterations: int = 20,
    rule: SparsityRule = "exact",
    min_scale: float = 0.1,
    max_scale: float = 10.0,
) -> Float[Array, "... outputs"]:
    r"""Normalises a kernel and lets a measure of the network's structure act on the result.

    With the base B (orthogonal weight norm, weight norm, or none), the kernel V and the scales g,

    .. math:: W = g\, S(B(V)),

    where S is, by ``measure``,

    - ``sparsity`` (SM): the proximal operator of exclusive sparsity, so that the weights of a unit compete and the
      small ones are exact zeros. It acts after the base, which would mix zeros of V with other weights.
    - ``neuron`` (NM): each unit times its ``neuron_scale``, a constant for the derivative. It acts in the forward
      pass only; written back to V again and again it would let the largest unit take all.
    - None: nothing.

    The authors give the parts and no formula of the whole: this is our reconstruction.

    Args:
      kernel: V, outputs along the last axis, inputs along the one before, as in Flax.
      scale: g, one entry an output; None is 1.
      measure: ``sparsity``, ``neuron`` or None.
      base: ``orthogonal``, ``weight_norm`` or ``none``.
      strength: of the measure, 0 or more: lambda of ``prox_exclusive_sparsity`` (None is 1e-3), alpha of
        ``neuron_scale`` (None is 1).
      axis: the units that are measured. ``input``: the weights of one input to all outputs belong together
        (in ``sparsity`` those at one position of a convolution). ``output``: the weights of one output; with
        ``neuron`` their length is that in V, since the base makes all alike.
      feature_group_count: of a grouped convolution.
      group_size: outputs that the orthogonal base puts at right angles; None is the largest divisor of them that is at
        most 64 and half the fan-in.
      center: whether the orthogonal base takes out the mean of the weights of each output.
      method: of the orthogonal base, ``newton`` or ``eigh``.
      iterations: of Newton.
      rule: of the proximal operator, ``exact`` or ``cges``.
      min_scale: lower limit of a neuron's scale.
      max_scale: upper limit of a neuron's scale.

    Returns:
      W, shape and type of ``kernel``.

    Raises:
      ValueError: an option is out of range or has no meaning with this base or measure, or the kernel does not allow
        it (see ``orthogonal_weight_norm``).

    Example:
      >>> kernel = jnp.array([[3.0, 4.0], [0.0, 5.0], [5.0, 5.0]])
      >>> print(structural_weight_norm(kernel, measure="sparsity", strength=0.5, base="none"))
      [[1.25      2.25     ]
       [0.        3.3333333]
       [2.5       2.5      ]]

    References:
      Yuan, Shen, Mehta, Li, Ge, Zha, `Structure injected weight normalization for training deep networks
      <https://doi.org/10.1007/s00530-021-00793-7>`_, 2021 (the idea).
    """
    check_structure(
        measure=measure,
        base=base,
        strength=strength,
        axis=axis,
        group_size=group_size,
        center=center,
        method=method,
        iterations=iterations,
        rule=rule,
        min_scale=min_scale,
        max_scale=max_scale,
    )
    check_kernel(kernel)
    check_affine(kernel, scale, None)
    wide = kernel.astype(statistics_dtype(kernel.dtype))
    match base:
        case "orthogonal":
            weights = orthogonal_weight_norm(
                wide,
                group_size=group_size,
                center=center,
                feature_group_count=feature_group_count,
                method=method,
                iterations=iterations,
            )
        case "weight_norm":
            weights = weight_norm(wide)
        case "none":
            weights = wide
    if measure is not None:
        strength = DEFAULT_STRENGTHS[measure] if strength is None else strength
        split = _split(weights, feature_group_count)
        if measure == "sparsity":
            members = split.ndim - 1 if axis == "input" else _weights_of(split.ndim, axis)
            split = prox_exclusive_sparsity(split, strength, members, rule)
        else:
            units = neuron_scale(
                weights if axis == "input" else wide,
                strength=strength,
                axis=axis,
                min_scale=min_scale,
                max_scale=max_scale,
                feature_group_count=feature_group_count,
            )
            # As neuron_scale lays them out: inputs or outputs, feature group after feature group.
            grouped = units.reshape(feature_group_count, -1)
            split = split * (grouped.T if axis == "input" else grouped).reshape(_broadcast(split, axis))
        weights = split.reshape(kernel.shape)
    return affine(weights, scale, None).astype(kernel.dtype)


# The options that modules hand on as they are, and what they are where nothing is said.
STRUCTURE: dict[str, Any] = {
    name: option.default
    for name, option in inspect.signature(structural_weight_norm).parameters.items()
    if option.kind is option.KEYWORD_ONLY and name != "feature_group_count"
}


def neuron_scales(kernel: Float[Array, "... outputs"], **structure: Any) -> Float[Array, " units"]:
    """The scales by which ``structural_weight_norm`` with ``measure="neuron"`` multiplies the units.

    Args:
      kernel: as it is stored.
      **structure: options of ``structural_weight_norm``.
    """
    groups = {"feature_group_count": structure.get("feature_group_count", 1)}
    if structure.get("axis", "input") == "input":
        of_base = {name: structure[name] for name in structure if _MEANT_FOR.get(name, ("base",))[0] == "base"}
        kernel = structural_weight_norm(kernel, **{**of_base, **groups, "measure": None})
    options = ("strength", "axis", "min_scale", "max_scale")
    return neuron_scale(
        kernel, **groups, **{name: structure[name] for name in options if structure.get(name) is not None}
    )


def check_structure(**structure: Any) -> None:
    """ValueError where an option of ``structural_weight_norm`` is not known, is out of range, or has no meaning.

    Args:
      **structure: some of the options; the others are taken to have their defaults.
    """
    given = STRUCTURE | structure
    for name, known in (
        ("measure", ("sparsity", "neuron", None)),
        ("base", ("orthogonal", "weight_norm", "none")),
        ("axis", ("input", "output")),
        ("center", (True, False)),
    ):
        if given[name] not in known:
            *others, last = map(repr, known)
            raise ValueError(f"{name}={given[name]!r} is not known; use {', '.join(others)} or {last}.")
    for name, (of, meant_for) in _MEANT_FOR.items():
        if given[of] not in meant_for and given[name] is not STRUCTURE[name] and given[name] != STRUCTURE[name]:
            wanted = " or ".join(map(repr, meant_for))
            raise ValueError(f"{name}={given[name]!r} has no meaning with {of}={given[of]!r}; it is for {of}={wanted}.")
    if given["strength"] is not None:
        check_strength(given["strength"])
    if given["group_size"] is not None and not _is_count(given["group_size"]):
        raise ValueError(f"group_size={given['group_size']!r} is out of range; use a whole number, 1 or more, or None.")
    if not _is_count(given["iterations"]):
        raise ValueError(f"iterations={given['iterations']!r} is out of range; use a whole number, 1 or more.")
    check_whitening(given["method"], given["iterations"], 0.0)
    check_rule(given["rule"])
    _check_limits(given["min_scale"], given["max_scale"])


def as_flax(kernel: ArrayLike, layer: Any) -> Array:
    """A kernel with its outputs last (and from there back), where the layer has them before its inputs."""
    kernel = jnp.asarray(kernel)
    return jnp.swapaxes(kernel, -1, -2) if getattr(layer, "transpose_kernel", False) else kernel


def starting_scale(base: Base, use_scale: Any, initial_scale: Any) -> float | None:
    """Where a module's scale starts: as given, or 1 without a base, and with one what keeps the variance through relu.

    Args:
      base: as for ``structural_weight_norm``.
      use_scale: whether there is a scale; without it the answer is None.
      initial_scale: as given.

    Raises:
      ValueError: the scale is not a positive number, or given where there is none.

    References:
      He, Zhang, Ren, Sun, `Delving Deep into Rectifiers <https://arxiv.org/abs/1502.01852>`_, 2015.
    """
    if not isinstance(use_scale, bool):
        raise ValueError(f"use_scale={use_scale!r} is not known; use True or False.")
    if initial_scale is None:
        return (1.0 if base == "none" else math.sqrt(2)) if use_scale else None
    if not use_scale:
        raise ValueError(f"initial_scale={initial_scale!r} has no meaning with use_scale=False.")
    if not isinstance(initial_scale, Real) or not 0 < float(initial_scale) < math.inf:
        raise ValueError(f"initial_scale={initial_scale!r} is out of range; use a finite number above 0, or None.")
    return float(initial_scale)


def _check_limits(min_scale: float, max_scale: float) -> None:
    if not 0 < min_scale <= 1 <= max_scale:
        raise ValueError(
            f"min_scale={min_scale}, max_scale={max_scale} are out of range; use 0 < min_scale <= 1 <= max_scale."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _split(kernel: Array, feature_groups: int) -> Array:
    """A kernel (..., inputs, outputs) as (..., inputs, feature groups, outputs of each)."""
    if feature_groups < 1 or kernel.shape[-1] % feature_groups:
        raise ValueError(f"feature_group_count={feature_groups} does not divide the {kernel.shape[-1]} outputs.")
    return kernel.reshape(*kernel.shape[:-1], feature_groups, -1)


def _weights_of(ndim: int, axis: Axis) -> tuple[int, ...]:
    """The axes of a split kernel along which the weights of one unit lie."""
    return (*range(ndim - 3), ndim - 1) if axis == "input" else tuple(range(ndim - 2))


def _broadcast(split: Array, axis: Axis) -> tuple[int, ...]:
    """The shape of what belongs to the units, as it multiplies a split kernel."""
    weights = _weights_of(split.ndim, axis)
    return tuple(1 if i in weights else size for i, size in enumerate(split.shape))
