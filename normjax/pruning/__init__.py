"""Neurons of a network, what they are worth, and networks without the worthless ones."""

from normjax.pruning.activations import ActivationProbe, ActivationSums
from normjax.pruning.debias import DEBIASES, debiased, layer_bias
from normjax.pruning.inversion import feature_inversion, redundancy
from normjax.pruning.prune import Pruned, prune
from normjax.pruning.scores import SCORES, score
from normjax.pruning.select import at_multiples, everything, same_share, without_lowest
from normjax.tracing.neurons import Group, Neurons, trace

__all__ = [
    "DEBIASES",
    "SCORES",
    "ActivationProbe",
    "ActivationSums",
    "Group",
    "Neurons",
    "Pruned",
    "at_multiples",
    "debiased",
    "everything",
    "feature_inversion",
    "layer_bias",
    "prune",
    "redundancy",
    "same_share",
    "score",
    "trace",
    "without_lowest",
]
