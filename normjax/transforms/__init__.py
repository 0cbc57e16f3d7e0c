"""Optax transformations and what belongs around an optimizer step."""

from normjax.transforms.decay import decay_mask
from normjax.transforms.frozen_zeros import FrozenZeros, frozen_zeros, with_alive
from normjax.transforms.guard import all_finite, select
from normjax.transforms.magnitude import magnitude_pruning
from normjax.transforms.proximal import ProximalState, proximal

__all__ = [
    "FrozenZeros",
    "ProximalState",
    "all_finite",
    "decay_mask",
    "frozen_zeros",
    "magnitude_pruning",
    "proximal",
    "select",
    "with_alive",
]
