"""Wrappers that reparametrise kernels, by name."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from normjax.functional.structural_weight_norm import STRUCTURE, check_structure, starting_scale
from normjax.linen.layer_options import check_kinds
from normjax.linen.structural_weight_norm import StructuralWeightNorm

WeightNormFactory = Callable[[nn.Module], nn.Module]

# What each name says; further options may not say it again.
_FIXED: dict[str, dict[str, Any]] = {
    "none": {},
    "weight_norm": {"base": "weight_norm", "measure": None},
    "orthogonal": {"base": "orthogonal", "measure": None},
    "structural": {},
}
_MEASURES = {"strength", "axis", "rule", "min_scale", "max_scale"}
_ORTHOGONAL = {"group_size", "center", "method", "iterations"}
WEIGHT_NORMS = tuple(_FIXED)


def plain(layer: nn.Module) -> nn.Module:
    """The layer as it is: what ``make_weight_norm("none")`` gives."""
    return layer


def make_weight_norm(name: str, **options: Any) -> WeightNormFactory:
    """A wrapper for Dense, Conv and ConvTranspose layers.

    Models wrap each hidden layer, ``weight_norm(nn.Dense(10, name="dense0"))``, whatever the name.

    Args:
      name: ``none`` (the layer as it is), ``weight_norm``, ``orthogonal``, or ``structural`` (any base with a measure).
      **options: fields of ``StructuralWeightNorm``, for example ``measure="neuron"``.

    Returns:
      A function of a layer that gives the wrapped layer.

    Raises:
      ValueError: the name is not known, it has no such option, or the option is out of range.

    Example:
      >>> wrap = make_weight_norm("structural", measure="neuron")
      >>> wrap(nn.Dense(10)).measure
      'neuron'
    """
    if name not in _FIXED:
        raise ValueError(f"weight norm {name!r} is not known; use one of {', '.join(sorted(_FIXED))}.")
    if unknown := sorted(set(options) - weight_norm_options(name)):
        known = ", ".join(sorted(weight_norm_options(name))) or "none"
        raise ValueError(f"weight norm {name!r} has no option {unknown[0]!r}; use one of: {known}.")
    check_kinds(f"weight norm {name!r}", StructuralWeightNorm, options)
    if name == "none":
        return plain
    fields = {**_FIXED[name], **options}
    check_structure(**{name: value for name, value in fields.items() if name in STRUCTURE})
    starting_scale(fields.get("base", "orthogonal"), fields.get("use_scale", True), fields.get("initial_scale"))
    try:
        jnp.dtype(fields.get("param_dtype", jnp.float32))
    except TypeError:
        raise ValueError(f"param_dtype={fields['param_dtype']!r} is not a type; use float32 or another.") from None
    return lambda layer: StructuralWeightNorm(layer, **fields, name=layer.name and f"{layer.name}_weight_norm")


def weight_norm_options(name: str) -> set[str]:
    """The options of ``make_weight_norm`` under a name."""
    known = {field.name for field in dataclasses.fields(StructuralWeightNorm)} - {"parent", "name", "layer_instance"}
    match name:
        case "none":
            return set()
        case "weight_norm":
            return known - set(_FIXED[name]) - _MEASURES - _ORTHOGONAL
        case "orthogonal":
            return known - set(_FIXED[name]) - _MEASURES
    return known
