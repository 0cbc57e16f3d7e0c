"""Data sets with random access, their splits, and the pipeline that makes batches of them."""

from typing import TYPE_CHECKING

from normjax.lazy_names import lazy_names

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
    "draw_reference": "reference",
    "example_order": "order",
    "load_dataset": "load",
    "load_scenes": "detection",
    "load_source": "load",
    "make_drift": "drift",
    "make_stream": "streams",
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
    "draw_reference",
    "evaluation_batches",
    "example_order",
    "load_dataset",
    "load_scenes",
    "load_source",
    "make_drift",
    "make_stream",
    "training_batches",
]

if TYPE_CHECKING:
    from normjax.data.detection import load_scenes
    from normjax.data.drift import make_drift
    from normjax.data.load import Dataset, load_dataset, load_source
    from normjax.data.order import example_order
    from normjax.data.pipeline import Batch, Shard, evaluation_batches, training_batches
    from normjax.data.reference import draw_reference
    from normjax.data.source import DatasetInfo, MemorySource, Source, Subset
    from normjax.data.streams import make_stream


__getattr__ = lazy_names(__name__, {name: f"{__name__}.{module}" for name, module in _PUBLIC.items()})
