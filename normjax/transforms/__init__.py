"""Optax transformations and what belongs around an optimizer step."""

from normjax.transforms.decay import decay_mask
from normjax.transforms.guard import all_finite, select

__all__ = ["all_finite", "decay_mask", "select"]
