"""Pure functions: arrays in, arrays out."""

from normjax.functional.batch_norm import RunningStatistics, batch_norm, normalize, update_running_statistics
from normjax.functional.batch_renorm import RenormStatistics, batch_renorm, renorm_limits, update_renorm_statistics
from normjax.functional.comoments import Comoments, comoments, merge_comoments, variances
from normjax.functional.decorrelated_batch_norm import (
    DecorrelatedStatistics,
    decorrelate,
    decorrelated_batch_norm,
    update_decorrelated_statistics,
)
from normjax.functional.decorrelated_layer_norm import decorrelated_layer_norm
from normjax.functional.fold import fold_batch_norm
from normjax.functional.ghost_batch_norm import ghost_batch_norm
from normjax.functional.moments import Moments, empty_moments, merge, merge_stacked, moments
from normjax.functional.reference_batch_norm import reference_batch_norm
from normjax.functional.whitening import inverse_sqrt, whiten

__all__ = [
    "Comoments",
    "DecorrelatedStatistics",
    "Moments",
    "RenormStatistics",
    "RunningStatistics",
    "batch_norm",
    "batch_renorm",
    "comoments",
    "decorrelate",
    "decorrelated_batch_norm",
    "decorrelated_layer_norm",
    "empty_moments",
    "fold_batch_norm",
    "ghost_batch_norm",
    "inverse_sqrt",
    "merge",
    "merge_comoments",
    "merge_stacked",
    "moments",
    "normalize",
    "reference_batch_norm",
    "renorm_limits",
    "update_decorrelated_statistics",
    "update_renorm_statistics",
    "update_running_statistics",
    "variances",
    "whiten",
]
