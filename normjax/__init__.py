"""Normalization of deep networks in JAX: layers, a data-parallel training loop, studies."""

from typing import TYPE_CHECKING

from normjax.lazy_names import lazy_names

__version__ = "0.1.0"

# Public names and the module each lives in, imported when first used: `import normjax` stays light.
_PUBLIC = {
    "BatchNorm": "normjax.linen",
    "BatchRenorm": "normjax.linen",
    "DecorrelatedBatchNorm": "normjax.linen",
    "DecorrelatedLayerNorm": "normjax.linen",
    "GhostBatchNorm": "normjax.linen",
    "ReferenceBatchNorm": "normjax.linen",
    "StructuralWeightNorm": "normjax.linen",
    "make_norm": "normjax.linen",
    "make_weight_norm": "normjax.linen",
    "fold": "normjax.inference",
    "functional": "normjax.functional",
    "inference": "normjax.inference",
    "initialize_from_batch": "normjax.inference",
    "linen": "normjax.linen",
    "materialize": "normjax.inference",
    "nnx": "normjax.nnx",
    "precise_statistics": "normjax.inference",
    "prune": "normjax.pruning",
    "pruning": "normjax.pruning",
    "reference_pass": "normjax.inference",
}

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "DecorrelatedBatchNorm",
    "DecorrelatedLayerNorm",
    "GhostBatchNorm",
    "ReferenceBatchNorm",
    "StructuralWeightNorm",
    "__version__",
    "fold",
    "functional",
    "inference",
    "initialize_from_batch",
    "linen",
    "make_norm",
    "make_weight_norm",
    "materialize",
    "nnx",
    "precise_statistics",
    "prune",
    "pruning",
    "reference_pass",
]

if TYPE_CHECKING:
    from normjax import functional, inference, linen, nnx, pruning
    from normjax.inference import fold, initialize_from_batch, materialize, precise_statistics, reference_pass
    from normjax.linen import (
        BatchNorm,
        BatchRenorm,
        DecorrelatedBatchNorm,
        DecorrelatedLayerNorm,
        GhostBatchNorm,
        ReferenceBatchNorm,
        StructuralWeightNorm,
        make_norm,
        make_weight_norm,
    )
    from normjax.pruning import prune


__getattr__ = lazy_names(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
