"""How far statistics lie from those of the population, layer by layer, in a trained network."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from normjax.data import Dataset, load_dataset, make_stream, training_batches
from normjax.data.options import StreamConfig
from normjax.functional.moments import Moments
from normjax.linen.statistics import BATCH_MOMENTS, BATCH_STATS, REFERENCE_STATS
from normjax.training.evaluate import restore_network
from normjax.training.session import Session
from normjax.training.step import Images

_BATCHES = 20  # of each stream


def measure(path: Path, data_dir: Path | None) -> dict[str, Any]:
    r"""Distances of means and deviations from those of the population, of each norm of a trained network.

    With the population's :math:`\mu, \sigma` over shuffled batches, distances are the mean over the channels of
    :math:`|\mu' - \mu| / \sigma` and :math:`|\log \sigma' / \sigma|`.

    Args:
      path: the run directory.
      data_dir: where data sets lie.

    Returns:
      For each layer in the order of the network, and for ``batch`` (single batches of the stream that it was trained
      on) and ``kept`` (reference or running statistics): ``mean`` and ``deviation``, None where all channels are
      constant.
    """
    session, variables, _ = restore_network(path, "last")
    config = session.config
    options = config.data.model_copy(update={"mean": session.info.mean, "std": session.info.std})
    dataset = load_dataset(options, seed=config.seed, data_dir=data_dir)
    own = _moments(session, variables, dataset, config.stream)
    population = _pooled(_moments(session, variables, dataset, StreamConfig()))
    kept_in = REFERENCE_STATS if REFERENCE_STATS in variables else BATCH_STATS
    kept = flatten_dict(variables[kept_in])
    told: dict[str, Any] = {}
    for layer in own[0]:
        whole = population[layer]
        batches = [_distance(batch[layer].mean, batch[layer].variance, whole) for batch in own]
        told["/".join(layer)] = {
            "batch": {name: _mean([batch[name] for batch in batches]) for name in ("mean", "deviation")},
            "kept": _distance(kept[*layer, "mean"], kept[*layer, "var"], whole),
        }
    return told


def _moments(
    session: Session, variables: dict[str, Any], dataset: Dataset, stream: StreamConfig
) -> list[dict[tuple[str, ...], Moments]]:
    """The moments of each of some training batches, by layer."""
    config, images = session.config, Images(session.info.mean, session.info.std)
    model = session.model.clone(norm=config.norm.factory())  # on one device
    calls: list[tuple[str, ...]] = []  # paths of the modules in the order of the network

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        calls.append(context.module.path)
        return call(*args, **kwargs)

    @jax.jit
    def step(pixels: jax.Array) -> Any:
        with nn.intercept_methods(note):
            _, told = model.apply(variables, images.scale(pixels), train=True, mutable=[BATCH_MOMENTS])
        return told[BATCH_MOMENTS]

    batches = training_batches(
        dataset.train,
        dataset.prepare,
        batch_size=config.batch_size,
        seed=config.seed,
        start=0,
        stop=_BATCHES,
        stream=make_stream(stream, dataset.train, batch_size=config.batch_size, seed=config.seed),
    )
    taken = [flatten_dict(jax.device_get(step(jnp.asarray(batch["image"])))) for batch in batches]
    layers = sorted((path[:-1] for path in taken[0]), key=calls.index)
    return [{layer: Moments(*each[*layer, "moments"]) for layer in layers} for each in taken]


def _pooled(batches: list[dict[tuple[str, ...], Moments]]) -> dict[tuple[str, ...], Moments]:
    """The moments of all values of all batches, in float64."""

    def pool(parts: list[Moments]) -> Moments:
        count, mean, m2 = (np.array([part[i] for part in parts], np.float64) for i in range(3))
        whole = (count * mean).sum(0) / count.sum(0)
        return Moments(count.sum(0), whole, m2.sum(0) + (count * (mean - whole) ** 2).sum(0))

    return {layer: pool([batch[layer] for batch in batches]) for layer in batches[0]}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _distance(mean: Any, variance: Any, population: Moments) -> dict[str, float | None]:
    wide = np.asarray(population.m2 / population.count, np.float64)
    alive = wide > 1e-12  # channels that relu has silenced tell nothing
    if not alive.any():
        return {"mean": None, "deviation": None}
    off = np.abs(np.asarray(mean) - population.mean)[alive] / np.sqrt(wide[alive])
    ratio = np.abs(np.log(np.maximum(np.asarray(variance), 1e-12)[alive] / wide[alive])) / 2
    return {"mean": float(off.mean()), "deviation": float(ratio.mean())}
