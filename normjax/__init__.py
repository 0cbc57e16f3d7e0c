"""Normalization of deep networks in JAX: layers, a data-parallel training loop, studies."""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normjax' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"normjax.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
