"""Normalization of deep networks in JAX: layers, a data-parallel training loop, studies."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the module each lives in, imported when first used: `import normjax` stays light.
_PUBLIC = {
    "BatchNorm": "normjax.linen",
    "make_norm": "normjax.linen",
    "functional": "normjax.functional",
    "linen": "normjax.linen",
}

__all__ = ["BatchNorm", "__version__", "functional", "linen", "make_norm"]

if TYPE_CHECKING:
    from normjax import functional, linen
    from normjax.linen import BatchNorm, make_norm


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normjax' has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"normjax.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
