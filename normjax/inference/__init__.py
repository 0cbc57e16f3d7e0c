"""What is done to a trained network as a whole."""

from normjax.inference.fold import Folded, fold
from normjax.inference.precise_statistics import precise_statistics

__all__ = ["Folded", "fold", "precise_statistics"]
