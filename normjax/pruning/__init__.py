"""Neurons of a network, what they are worth, and networks without the worthless ones."""

from typing import TYPE_CHECKING

from normjax.lazy_names import lazy_names

# Imported when first used: who reads the options of a search does not need JAX.
_PUBLIC = {
    "DEBIASES": "normjax.pruning.debias",
    "SCORES": "normjax.pruning.scores",
    "ActivationProbe": "normjax.pruning.activations",
    "ActivationSums": "normjax.pruning.activations",
    "Group": "normjax.tracing.neurons",
    "Neurons": "normjax.tracing.neurons",
    "Pruned": "normjax.pruning.one_shot",
    "at_multiples": "normjax.pruning.select",
    "debiased": "normjax.pruning.debias",
    "everything": "normjax.pruning.select",
    "feature_inversion": "normjax.pruning.inversion",
    "layer_bias": "normjax.pruning.debias",
    "prune": "normjax.pruning.one_shot",
    "redundancy": "normjax.pruning.inversion",
    "same_share": "normjax.pruning.select",
    "score": "normjax.pruning.scores",
    "trace": "normjax.tracing.neurons",
    "without_lowest": "normjax.pruning.select",
}

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

if TYPE_CHECKING:
    from normjax.pruning.activations import ActivationProbe, ActivationSums
    from normjax.pruning.debias import DEBIASES, debiased, layer_bias
    from normjax.pruning.inversion import feature_inversion, redundancy
    from normjax.pruning.one_shot import Pruned, prune
    from normjax.pruning.scores import SCORES, score
    from normjax.pruning.select import at_multiples, everything, same_share, without_lowest
    from normjax.tracing.neurons import Group, Neurons, trace

__getattr__ = lazy_names(__name__, _PUBLIC)
