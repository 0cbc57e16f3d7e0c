"""All that training changes from step to step, and all that a checkpoint holds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict


class TrainState(struct.PyTreeNode):
    """Parameters, statistics, optimizer and counters of a run."""

    step: jax.Array  # int32: batches taken from the data
    updates: jax.Array  # int32: steps that moved the parameters
    skipped_in_row: jax.Array  # int32: non-finite steps since the last good one
    params: Any
    model_state: Any  # the other collections, batch_stats above all
    opt_state: Any
    ema: Any  # average of {"params", **model_state}; None where it is not kept
    reference: Any  # uint8 images of the reference batch; None where no layer wants them


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    example: jax.Array,
    *,
    seed: int,
    ema: bool,
    reference: jax.Array | None = None,
    prepare: Callable[[dict[str, Any], jax.Array | None], dict[str, Any]] | None = None,
    start: dict[tuple[str, ...], Any] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
      model: called as ``model(images, train=...)``.
      optimizer: of the parameters.
      example: a batch of images, for its shape.
      seed: decides the initial parameters.
      ema: whether averaged weights are kept.
      reference: images of the reference batch; None where no layer wants them.
      prepare: what is done to the initial variables, given these images.
      start: variables that the network starts from, by path, in the stead of initial ones.
    """

    def make(key: jax.Array, reference: jax.Array | None, start: dict[tuple[str, ...], Any]) -> dict[str, Any]:
        variables = flatten_dict(dict(model.init(key, example, train=True)))
        variables = unflatten_dict({path: start.get(path, leaf) for path, leaf in variables.items()})
        return variables if prepare is None else prepare(variables, reference)

    variables = jax.jit(make)(jax.random.key(seed), reference, start or {})
    params = variables.pop("params")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        updates=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        params=params,
        model_state=variables,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, {"params": params, **variables}) if ema else None,
        reference=reference,
    )


def evaluated_variables(state: TrainState) -> dict[str, Any]:
    """The variables that are evaluated: the averaged ones where they are kept."""
    return state.ema if state.ema is not None else {"params": state.params, **state.model_state}


def updated_average(average: Any, state: dict[str, Any], updates: jax.Array, decay: float) -> Any:
    """One step of the exponential average, with the decay (1 + t)/(10 + t) while that is smaller.

    So the average forgets the initial weights instead of carrying them for 1/(1 - decay) steps.
    """
    t = updates.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, b: (kept * a + (1 - kept) * b).astype(a.dtype), average, state)
