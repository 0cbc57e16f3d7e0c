"""Normalization layers as Flax NNX modules."""

from normjax.nnx.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.nnx.layers import BatchNorm, BatchRenorm, DecorrelatedBatchNorm, GhostBatchNorm
from normjax.nnx.reference_batch_norm import ReferenceBatchNorm, ReferenceStat

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "ReferenceBatchNorm",
    "ReferenceStat",
]
