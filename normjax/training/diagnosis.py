"""Where in a training step the first value arose that is not finite."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from normjax.inference import Shrunken
from normjax.linen.statistics import REFERENCE_STATS
from normjax.training.reference import reference_statistics
from normjax.training.session import Session
from normjax.training.state import TrainState
from normjax.training.step import AXIS, Images, mean_loss
from normjax.transforms import all_finite


def first_non_finite(session: Session, state: Any, batch: Any) -> str | None:
    """Takes a step again, watching every layer on its way forward and every gradient on its way back.

    Args:
      session: of the run.
      state: the replicated state before the step.
      batch: the sharded batch of the step.

    Returns:
      What was not finite first, as ``the output of norm0``; None where all of it is finite.
    """
    places: list[str] = []
    finite = session.parallel.map(_make_probe(session, places), "replicated")(state, batch)
    flags = session.parallel.fetch(finite)
    return next((place for place, is_finite in zip(places, flags, strict=True) if not is_finite), None)


def _make_probe(session: Session, places: list[str]) -> Callable[[TrainState, dict[str, jax.Array]], list[jax.Array]]:
    """A step of one device that tells for each of ``places``, in order of computation, whether all of it is finite."""
    config, model = session.config, session.model
    images = Images(session.info.mean, session.info.std)

    def probe(state: TrainState, batch: dict[str, jax.Array]) -> list[jax.Array]:
        places.clear()
        flags: list[jax.Array] = []

        def note(place: str, values: Any) -> None:
            places.append(place)
            flags.append(all_finite(values))

        pixels = images.scale(batch["image"])
        note("the images of the batch", pixels)
        model_state = state.model_state
        if state.reference is not None and config.reference.refresh == 1:
            variables = {**model_state, "params": state.params}
            statistics = reference_statistics(model, variables, state.reference, images.scale, AXIS)
            model_state = {**model_state, REFERENCE_STATS: statistics}
            note("the statistics of the reference batch", statistics)
        layers: list[str] = []

        def watched(variables: Any, x: jax.Array, mask: jax.Array | None) -> Any:
            outputs: list[jax.Array] = []
            layers.clear()

            def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
                output = call(*args, **kwargs)
                if context.method_name == "__call__":
                    layers.append("/".join(context.module.path))
                    outputs.append(all_finite(output))
                return output

            moved = [name for name in model_state if name != REFERENCE_STATS]
            network = model.model if isinstance(model, Shrunken) else model
            with nn.intercept_methods(watch):
                return network.apply(variables, x, train=True, mask=mask, mutable=moved), outputs

        def loss(params: Any) -> tuple[jax.Array, Any]:
            run = partial(model.run, watched) if isinstance(model, Shrunken) else watched
            (logits, updated), outputs = run({**model_state, "params": params}, pixels, batch.get("mask"))
            return mean_loss(logits, batch, config.label_smoothing), (outputs, updated)

        (value, (outputs, updated)), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        places.extend(f"the output of {layer or 'the network'}" for layer in layers)
        flags.extend(outputs)
        for name, leaf in _named(updated):
            note(f"{name}, as this batch moves it", leaf)
        note("the loss", value)
        gradients = lax.pmean(gradients, AXIS)
        # They come into being from the last layer to the first.
        for name, leaf in sorted(_named(gradients), key=lambda item: -_place(layers, item[0])):
            note(f"the gradient of {name}", leaf)
        moves, _ = session.optimizer.update(gradients, state.opt_state, state.params)
        for name, leaf in _named(optax.apply_updates(state.params, moves)):
            note(f"{name}, as the optimizer moves it", leaf)
        return [lax.pmin(flag.astype(jnp.int32), AXIS) for flag in flags]

    return probe


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _place(layers: list[str], parameter: str) -> int:
    """When the layer of a parameter was done, on the way forward."""
    layer = parameter.rpartition("/")[0]
    return layers.index(layer) if layer in layers else -1
