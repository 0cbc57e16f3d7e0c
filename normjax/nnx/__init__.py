"""Normalization layers as Flax NNX modules."""

from normjax.nnx.decorrelated_layer_norm import DecorrelatedLayerNorm
from normjax.nnx.layers import BatchNorm, BatchRenorm, DecorrelatedBatchNorm, GhostBatchNorm

__all__ = ["BatchNorm", "BatchRenorm", "DecorrelatedBatchNorm", "DecorrelatedLayerNorm", "GhostBatchNorm"]
