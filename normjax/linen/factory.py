"""Normalization layers by name, with one calling convention for all."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from normjax.linen.batch_norm import BatchNorm
from normjax.linen.batch_renorm import BatchRenorm
from normjax.linen.decorrelated_batch_norm import DecorrelatedBatchNorm
from normjax.linen.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.linen.ghost_batch_norm import GhostBatchNorm
from normjax.linen.layer_options import check_kinds
from normjax.linen.no_norm import NoNorm
from normjax.linen.reference_batch_norm import ReferenceBatchNorm

NormFactory = Callable[..., nn.Module]

# What a model tells every norm, and what means nothing to a norm that looks at one example at a time.
_ABOUT_THE_BATCH = ("use_running_average", "axis_name", "axis_index_groups")


def make_norm(name: str, **options: Any) -> NormFactory:
    """A factory of the normalization layer ``name``.

    Models build each layer with ``norm(use_running_average=not train)`` and call it as
    ``layer(x, mask=mask)``, whichever norm it is: norms of single examples take no notice of either.

    Args:
      name: ``batch_norm``, ``ghost_batch_norm``, ``batch_renorm``, ``reference_batch_norm``,
        ``decorrelated_batch_norm``, ``decorrelated_layer_norm``, or Flax's ``group_norm``, ``instance_norm``,
        ``layer_norm``, ``rms_norm``; or ``none``, which only adds a bias.
      **options: fields of the layer, for example ``momentum=0.9``.

    Returns:
      A function of further fields that gives the module.

    Raises:
      ValueError: the name is not known, the layer has no such option, or it is of another kind.

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
    check_kinds(f"norm {name!r}", layer, options)
    ignored = _ABOUT_THE_BATCH if issubclass(layer, PerExample) else ()

    def factory(**fields: Any) -> nn.Module:
        return layer(**{**options, **{key: value for key, value in fields.items() if key not in ignored}})

    return factory


def has_option(name: str, option: str) -> bool:
    """Whether the layer ``name`` has a field ``option``."""
    return name in NORMS and option in _options(NORMS[name])


def shares_batches(name: str) -> bool:
    """Whether the layer ``name`` normalises an example by others, which devices may share."""
    return name in NORMS and not issubclass(NORMS[name], PerExample)


def _options(layer: type[nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(layer)} - {"parent", "name"}


class PerExample:
    """A layer whose output for one example does not depend on the others, so it needs no mask of examples."""

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        if mask is not None and any(size != 1 for size in jnp.shape(mask)[1:]):
            raise ValueError(
                f"mask of shape {jnp.shape(mask)} tells parts of an example apart; this layer takes a mask of examples."
            )
        return super().__call__(x)  # type: ignore[misc]


def _per_example(layer: type[nn.Module]) -> type[nn.Module]:
    """The layer under the calling convention of ``make_norm``, with its own name."""
    return type(layer.__name__, (PerExample, layer), {"__doc__": layer.__doc__})


NORMS: dict[str, type[nn.Module]] = {
    "batch_norm": BatchNorm,
    "ghost_batch_norm": GhostBatchNorm,
    "batch_renorm": BatchRenorm,
    "reference_batch_norm": ReferenceBatchNorm,
    "decorrelated_batch_norm": DecorrelatedBatchNorm,
    "decorrelated_layer_norm": _per_example(DecorrelatedLayerNorm),
    "group_norm": _per_example(nn.GroupNorm),
    "instance_norm": _per_example(nn.InstanceNorm),
    "layer_norm": _per_example(nn.LayerNorm),
    "rms_norm": _per_example(nn.RMSNorm),
    "none": _per_example(NoNorm),
}
