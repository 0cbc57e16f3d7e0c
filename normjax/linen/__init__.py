"""Normalization layers as Flax Linen modules."""

from normjax.linen.batch_norm import BatchNorm
from normjax.linen.batch_renorm import BatchRenorm
from normjax.linen.decorrelated_batch_norm import DecorrelatedBatchNorm
from normjax.linen.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.linen.factory import make_norm
from normjax.linen.ghost_batch_norm import GhostBatchNorm
from normjax.linen.reference_batch_norm import ReferenceBatchNorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "ReferenceBatchNorm",
    "make_norm",
]
