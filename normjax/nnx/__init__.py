"""Normalization layers as Flax NNX modules."""

from normjax.nnx.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.nnx.layers import BatchNorm, BatchRenorm, DecorrelatedBatchNorm, GhostBatchNorm
from normjax.nnx.reference_batch_norm import ReferenceBatchNorm, ReferenceStat
from normjax.nnx.structural_weight_norm import StructuralWeightNorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "ReferenceBatchNorm",
    "ReferenceStat",
    "StructuralWeightNorm",
]
