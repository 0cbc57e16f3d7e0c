"""Pure functions: arrays in, arrays out."""

from normjax.functional.batch_norm import RunningStatistics, batch_norm, normalize, update_running_statistics
from normjax.functional.batch_renorm import RenormStatistics, batch_renorm, renorm_limits, update_renorm_statistics
from normjax.functional.comoments import Comoments, comoments, merge_comoments, variances
from normjax.functional.convolution import conv_general_dilated, cpu_convolutions, xla_convolutions
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
from normjax.functional.orthogonal_weight_norm import orthogonal_weight_norm
from normjax.functional.reference_batch_norm import reference_batch_norm
from normjax.functional.sparsity import (
    exclusive_sparsity,
    group_sparsity,
    prox_exclusive_sparsity,
    prox_group_sparsity,
    prox_l1,
)
from normjax.functional.structural_weight_norm import neuron_scale, structural_weight_norm
from normjax.functional.weight_norm import weight_norm
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
    "conv_general_dilated",
    "cpu_convolutions",
    "decorrelate",
    "decorrelated_batch_norm",
    "decorrelated_layer_norm",
    "empty_moments",
    "exclusive_sparsity",
    "fold_batch_norm",
    "ghost_batch_norm",
    "group_sparsity",
    "inverse_sqrt",
    "merge",
    "merge_comoments",
    "merge_stacked",
    "moments",
    "neuron_scale",
    "normalize",
    "orthogonal_weight_norm",
    "prox_exclusive_sparsity",
    "prox_group_sparsity",
    "prox_l1",
    "reference_batch_norm",
    "renorm_limits",
    "structural_weight_norm",
    "update_decorrelated_statistics",
    "update_renorm_statistics",
    "update_running_statistics",
    "variances",
    "weight_norm",
    "whiten",
    "xla_convolutions",
]
