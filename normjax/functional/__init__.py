"""Pure functions: arrays in, arrays out."""

from normjax.functional.batch_norm import RunningStatistics, batch_norm, normalize, update_running_statistics
from normjax.functional.moments import Moments, empty_moments, merge, moments

__all__ = [
    "Moments",
    "RunningStatistics",
    "batch_norm",
    "empty_moments",
    "merge",
    "moments",
    "normalize",
    "update_running_statistics",
]
