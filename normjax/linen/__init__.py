"""Normalization layers as Flax Linen modules."""

from normjax.linen.batch_norm import BatchNorm
from normjax.linen.batch_renorm import BatchRenorm
from normjax.linen.decorrelated_batch_norm import DecorrelatedBatchNorm
from normjax.linen.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.linen.factory import make_norm
from normjax.linen.ghost_batch_norm import GhostBatchNorm
from normjax.linen.no_norm import NoNorm
from normjax.linen.reference_batch_norm import ReferenceBatchNorm
from normjax.linen.structural_weight_norm import StructuralWeightNorm
from normjax.linen.weight_norm_factory import make_weight_norm

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "NoNorm",
    "ReferenceBatchNorm",
    "StructuralWeightNorm",
    "make_norm",
    "make_weight_norm",
]
