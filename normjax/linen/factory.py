"""Normalization layers by name, with one calling convention for all."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from normjax.linen.batch_norm import BatchNorm

NormFactory = Callable[..., nn.Module]

# What a model tells every norm, and what means nothing to a norm that looks at one example at a time.
_ABOUT_THE_BATCH = ("use_running_average", "axis_name", "axis_index_groups")


def make_norm(name: str, **options: Any) -> NormFactory:
    """A factory of the normalization layer ``name``.

    Models build each layer with ``norm(use_running_average=not train)`` and call it as
    ``layer(x, mask=mask)``, whichever norm it is: norms of single examples take no notice of either.

    Args:
      name: ``batch_norm``, ``group_norm``, ``instance_norm``, ``layer_norm`` or ``rms_norm``.
      **options: fields of the layer, for example ``momentum=0.9``.

    Returns:
      A function of further fields that gives the module.

    Raises:
      ValueError: the name is not known, or the layer has no such option.

    Example:
      >>> norm = make_norm("batch_norm", momentum=0.9)
      >>> norm(use_running_average=True).momentum
      0.9
    """
    if name not in NORMS:
        raise ValueError(f"norm {name!r} is not known; use one of {', '.join(sorted(NORMS))}.")
    layer = NORMS[name]
    known = _options(layer)
    if unknown := sorted(set(options) - known):
        raise ValueError(f"norm {name!r} has no option {unknown[0]!r}; use one of {', '.join(sorted(known))}.")
    ignored = _ABOUT_THE_BATCH if issubclass(layer, PerExample) else ()

    def factory(**fields: Any) -> nn.Module:
        return layer(**{**options, **{key: value for key, value in fields.items() if key not in ignored}})

    return factory


def has_option(name: str, option: str) -> bool:
    """Whether the layer ``name`` has a field ``option``."""
    return name in NORMS and option in _options(NORMS[name])


def _options(layer: type[nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(layer)} - {"parent", "name"}


class PerExample:
    """A layer whose output for one example does not depend on the others, so it needs no mask of examples."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        del mask
        return super().__call__(x)  # type: ignore[misc]


class GroupNorm(PerExample, nn.GroupNorm):
    """Flax's GroupNorm under the calling convention of ``make_norm``."""


class InstanceNorm(PerExample, nn.InstanceNorm):
    """Flax's InstanceNorm under the calling convention of ``make_norm``."""


class LayerNorm(PerExample, nn.LayerNorm):
    """Flax's LayerNorm under the calling convention of ``make_norm``."""


class RMSNorm(PerExample, nn.RMSNorm):
    """Flax's RMSNorm under the calling convention of ``make_norm``."""


NORMS: dict[str, type[nn.Module]] = {
    "batch_norm": BatchNorm,
    "group_norm": GroupNorm,
    "instance_norm": InstanceNorm,
    "layer_norm": LayerNorm,
    "rms_norm": RMSNorm,
}
