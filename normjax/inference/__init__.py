"""What is done to a network as a whole."""

from normjax.inference.fold import Folded, fold
from normjax.inference.initialize_from_batch import initialize_from_batch
from normjax.inference.materialize import Materialized, materialize
from normjax.inference.precise_statistics import precise_statistics
from normjax.inference.reference_pass import reference_pass
from normjax.inference.shrink import Shrunken
from normjax.inference.structure import LayerStructure, weight_structure

__all__ = [
    "Folded",
    "LayerStructure",
    "Materialized",
    "Shrunken",
    "fold",
    "initialize_from_batch",
    "materialize",
    "precise_statistics",
    "reference_pass",
    "weight_structure",
]
