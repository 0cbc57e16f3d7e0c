"""What neurons are judged on: the network with plain kernels, and images with their classes."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.data import Dataset, evaluation_batches
from normjax.data.source import Subset
from normjax.inference import materialize
from normjax.training.config import ProximalConfig, TrainConfig, WeightNormConfig
from normjax.training.step import Images


def plain_network(config: TrainConfig, model: Any, shape: Any, variables: Any) -> tuple[TrainConfig, dict[str, Any]]:
    """Config and variables of the same network with plain kernels, which keep the zeros that they have.

    Args:
      config: of the network.
      model: as the config has it.
      shape: of an image.
      variables: of the network.
    """
    if config.weight_norm.name != "none":
        variables = materialize(
            model, jax.tree.map(jnp.asarray, variables), jnp.zeros((1, *shape)), train=False
        ).variables
    changes = {"weight_norm": WeightNormConfig(), "proximal": ProximalConfig()}
    return config.model_copy(update=changes), jax.tree.map(np.asarray, dict(variables))


def images_and_classes(dataset: Dataset, most: int, batch: int) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Training images as they are evaluated, and their classes, for scores of activations.

    Args:
      dataset: of the run.
      most: images in all, up to a batch; from all over the data, which may lie sorted by class.
      batch: images at a time, fewer where there are fewer.
    """
    seen, scale = 0, Images(dataset.info.mean, dataset.info.std).scale
    size = min(batch, most, len(dataset.train))
    count = min(math.ceil(most / size) * size, len(dataset.train))
    everywhere = Subset(dataset.train, np.linspace(0, len(dataset.train) - 1, count).round().astype(int))
    for found in evaluation_batches(everywhere, dataset.prepare, batch_size=size):
        if seen >= most:
            return
        seen += size
        if found["mask"].all():
            yield scale(jnp.asarray(found["image"])), jnp.asarray(found["label"])
