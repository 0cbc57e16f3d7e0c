"""Taking neurons out of a network, with all that belongs to them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from normjax.inference.shrink import Shrunken
from normjax.pruning.constants import fold_constants
from normjax.pruning.debias import debiased
from normjax.pruning.scores import score as score_of
from normjax.pruning.select import Kept, everything, gone, of_the_original, without_lowest
from normjax.tracing.neurons import trace


class Pruned(NamedTuple):
    """A smaller network."""

    apply: Callable[..., Any]
    variables: Any
    opt_state: Any  # None where none was given
    kept: Kept  # the neurons that stay, by group
    config: Any  # of the network, where it is one of ours; None where none was given


def prune(
    model: Any,
    variables: Any,
    example: Any,
    *,
    share: float | None = None,
    kept: Mapping[str, Sequence[int]] | None = None,
    score: str = "l2",
    debias: str = "mean",
    activations: Any = None,
    min_keep: float = 0.1,
    layer_cap: float = 0.9,
    protected: Sequence[str] = (),
    opt_state: Any = None,
    config: Any = None,
    seed: int = 0,
    **options: Any,
) -> Pruned:
    r"""Removes neurons from a network: from parameters, statistics and optimizer state together.

    Either a share of all neurons goes, those with the lowest scores of all layers together after the debiasing, or all
    but those that are named. What is left computes what the network with zeros in their place computes, at its own
    sizes; the constants of dead neurons stay behind, as ``fold_constants`` has it, where the network has one input, an
    array.

    Args:
      model: a Flax Linen model (or anything with ``apply(variables, example, **options)``).
      variables: its trained variables; they stay as they are.
      example: an input, or a tuple of inputs, for shapes and types; other batch sizes work too.
      share: of all neurons that goes, one at least, above 0 and below 1; less where the limits below leave fewer.
      kept: the neurons that stay, by group, in the stead of a share; groups not named stay whole.
      score: what neurons are judged by, one of ``normjax.pruning.SCORES``.
      debias: what makes scores of different layers comparable, one of ``normjax.pruning.DEBIASES``.
      activations: as ``ActivationProbe`` measures them, for scores that need data.
      min_keep: share of a layer that stays in any case, one neuron at least.
      layer_cap: largest share of a layer that goes.
      protected: layers whose neurons stay as they are.
      opt_state: state of the optimizer, to go on with.
      config: a ``TrainConfig`` of the network with plain kernels, to get that of the smaller one.
      seed: of the score ``random``.
      **options: keyword arguments of the model at inference, for example ``train=False``.

    Returns:
      ``(apply, variables, opt_state, kept, config)``: ``apply`` has the signature of ``model.apply``, and can be
      differentiated. The last ones are None where they were not given.

    Raises:
      ValueError: not one of share and kept is given, one is out of range, a name is not known, a score needs data and
        gets none, or the network has no neuron that could go.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((2, 4))
      >>> variables = model.init(jax.random.key(0), x)
      >>> smaller = prune(model, variables, x, share=0.5)
      >>> smaller.variables["params"]["layers_2"]["kernel"].shape, smaller.apply(smaller.variables, x).shape
      ((4, 3), (2, 3))

    References:
      Wang, Research on Neuron Pruning of Deep Neural Networks (thesis, in Chinese), UESTC, 2017 (scores without bias
      between layers, ranked together).
      Molchanov et al., `Pruning Convolutional Neural Networks for Resource Efficient Inference
      <https://arxiv.org/abs/1611.06440>`_, 2017.
    """
    neurons = trace(model, variables, example, **options)
    if not neurons.groups:
        reasons = "; ".join(dict.fromkeys(reason for whole in neurons.whole for reason in whole.reasons))
        raise ValueError(f"this network has no neuron that can be removed: {reasons}.")
    sizes = {group.name: group.size for group in neurons.groups}
    if kept is not None and share is None:
        if masks := [name for name, few in kept.items() if np.asarray(few).dtype == bool]:
            raise ValueError(f"kept of {masks[0]} is a mask; give the numbers of what stays, np.flatnonzero(mask).")
        if protected:
            raise ValueError(f"protected={protected} goes with a share; kept={kept} names what stays.")
        stays = everything(sizes) | {name: tuple(sorted(set(map(int, few)))) for name, few in kept.items()}
    elif share is not None and kept is None:
        if not 0 < share < 1:
            raise ValueError(f"share={share:g} is out of range; use more than 0 and less than 1.")
        scores = debiased(score_of(neurons, variables, score, activations=activations, seed=seed), debias)
        limits: dict[str, Any] = {
            "min_keep": min_keep,
            "layer_cap": layer_cap,
            "protected": neurons.groups_of(protected),
        }
        count = max(1, round(share * sum(sizes.values())))
        stays = without_lowest(scores, everything(sizes), count, **limits)
    else:
        raise ValueError(f"share={share} and kept={kept}: give one of them.")
    smaller = Shrunken(model, neurons, stays)
    inputs = example if isinstance(example, tuple) else (example,)
    if len(inputs) == 1 and hasattr(inputs[0], "shape"):
        variables = fold_constants(model, variables, neurons, gone(sizes, stays), inputs[0], **options)
    return Pruned(
        smaller.apply,
        smaller.shrink(variables),
        None if opt_state is None else smaller.shrink_state(opt_state),
        stays,
        None if config is None else _config(config, stays),
    )


def _config(config: Any, stays: Kept) -> Any:
    """Validated again: a network that is smaller has rules of its own. Its weights are not those of the file."""
    model = config.model.model_copy(update={"kept": of_the_original(config.model.kept, stays), "weights": None})
    return type(config).model_validate(config.model_copy(update={"model": model}).model_dump())
