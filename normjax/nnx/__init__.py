"""Normalization layers as Flax NNX modules, and NNX modules as pure functions."""

from normjax.nnx.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.nnx.layers import BatchNorm, BatchRenorm, DecorrelatedBatchNorm, GhostBatchNorm
from normjax.nnx.pure import Pure, pure
from normjax.nnx.reference_batch_norm import ReferenceBatchNorm, ReferenceStat
from normjax.nnx.structural_weight_norm import StructuralWeightNorm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "Pure",
    "ReferenceBatchNorm",
    "ReferenceStat",
    "StructuralWeightNorm",
    "pure",
]
