"""Reference passes in training: which rows a device takes, and when the statistics are taken anew."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from normjax.inference import reference_pass
from normjax.linen.statistics import REFERENCE_STATS
from normjax.training.state import TrainState, evaluated_variables


def reference_statistics(
    model: nn.Module,
    variables: dict[str, Any],
    images: jax.Array,
    scale: Callable[[jax.Array], jax.Array],
    axis_name: str | None,
) -> Any:
    """The statistics of the reference batch, of which each device passes its part.

    Args:
      model: called as ``model(images, train=False, mask=mask)``.
      variables: parameters and other collections.
      images: the whole reference batch, on every device.
      scale: makes of pixels the input of the network.
      axis_name: the mapped axis; None on one device.
    """
    mask = None
    if axis_name is not None:
        devices = lax.axis_size(axis_name)
        rows = -(-len(images) // devices)
        padding = devices * rows - len(images)
        first = lax.axis_index(axis_name) * rows
        if padding:
            images = jnp.pad(images, ((0, padding), *((0, 0),) * (images.ndim - 1)))
            mask = first + jnp.arange(rows) < len(images) - padding
        images = lax.dynamic_slice_in_dim(images, first, rows)
    # Not `train`: a reference pass moves nothing but the reference.
    return reference_pass(model, variables, scale(images), train=False, mask=mask)[REFERENCE_STATS]


def first_statistics(
    model: nn.Module, variables: dict[str, Any], images: jax.Array, scale: Callable[[jax.Array], jax.Array], axis: str
) -> Any:
    """The statistics under the initial weights, all rows on one device."""

    def on_one_device(images: jax.Array) -> Any:
        return reference_statistics(model, variables, images, scale, axis)

    # The layers of the model share over a mapped axis, so there is one, of one device.
    return jax.tree.map(lambda leaf: leaf[0], jax.vmap(on_one_device, axis_name=axis)(images[None]))


def make_refresh(
    model: nn.Module, scale: Callable[[jax.Array], jax.Array], axis_name: str | None
) -> Callable[[TrainState], TrainState]:
    """A step that takes the reference statistics anew, under the weights that are trained."""

    def refresh(state: TrainState) -> TrainState:
        variables = {"params": state.params, **state.model_state}
        statistics = reference_statistics(model, variables, state.reference, scale, axis_name)
        return state.replace(model_state={**state.model_state, REFERENCE_STATS: statistics})

    return refresh


def make_ready(
    model: nn.Module, scale: Callable[[jax.Array], jax.Array], axis_name: str | None
) -> Callable[[TrainState], TrainState]:
    """A step that takes the reference statistics anew, under the weights that are evaluated."""

    def ready(state: TrainState) -> TrainState:
        statistics = reference_statistics(model, evaluated_variables(state), state.reference, scale, axis_name)
        if state.ema is not None:
            return state.replace(ema={**state.ema, REFERENCE_STATS: statistics})
        return state.replace(model_state={**state.model_state, REFERENCE_STATS: statistics})

    return ready
