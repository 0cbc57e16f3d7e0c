"""Data sets with random access, their splits, and the pipeline that makes batches of them."""

from normjax.data.load import Dataset, load_dataset, load_source
from normjax.data.pipeline import Batch, Shard, evaluation_batches, example_order, training_batches
from normjax.data.source import DatasetInfo, MemorySource, Source, Subset

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
