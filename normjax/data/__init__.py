"""Data sets with random access, their splits, and the pipeline that makes batches of them."""

import importlib
from typing import TYPE_CHECKING, Any

# Imported when first used: who reads the options of the data needs neither Grain nor pictures.
_PUBLIC = {
    "Batch": "pipeline",
    "Dataset": "load",
    "DatasetInfo": "source",
    "MemorySource": "source",
    "Shard": "pipeline",
    "Source": "source",
    "Subset": "source",
    "evaluation_batches": "pipeline",
    "example_order": "pipeline",
    "load_dataset": "load",
    "load_source": "load",
    "training_batches": "pipeline",
}

__all__ = [
    "Batch",
    "Dataset",
    "DatasetInfo",
    "MemorySource",
    "Shard",
    "Source",
    "Subset",
    "evaluation_batches",
    "example_order",
    "load_dataset",
    "load_source",
    "training_batches",
]

if TYPE_CHECKING:
    from normjax.data.load import Dataset, load_dataset, load_source
    from normjax.data.pipeline import Batch, Shard, evaluation_batches, example_order, training_batches
    from normjax.data.source import DatasetInfo, MemorySource, Source, Subset


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'normjax.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"normjax.data.{_PUBLIC[name]}"), name)
