"""Normalization layers as Flax Linen modules."""

from normjax.linen.batch_norm import BatchNorm
from normjax.linen.factory import make_norm

__all__ = ["BatchNorm", "make_norm"]
