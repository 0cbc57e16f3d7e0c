"""What is done to a trained network as a whole."""

from normjax.inference.fold import Folded, fold
from normjax.inference.precise_statistics import precise_statistics
from normjax.inference.reference_pass import reference_pass

__all__ = ["Folded", "fold", "precise_statistics", "reference_pass"]
