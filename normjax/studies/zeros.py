"""The share of exact zeros in the hidden kernels of a trained network."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from normjax.inference import weight_structure
from normjax.training.evaluate import restore_network
from normjax.training.step import Images

HEAD = "head"  # stays plain under every contender


def measure(path: Path, data_dir: Path | None) -> dict[str, Any]:
    """Zeros and weights of each hidden layer, as the layer takes them.

    Args:
      path: the run directory.
      data_dir: not needed.

    Returns:
      ``zeros``, the share of all hidden weights, and ``layers``, (zeros, weights) of each.
    """
    del data_dir
    session, variables, _ = restore_network(path, "best")
    example = Images(session.info.mean, session.info.std).scale(jnp.zeros((1, *session.info.image_shape), jnp.uint8))
    found = weight_structure(session.model, jax.tree.map(jnp.asarray, variables), example, train=False)
    layers = {"/".join(layer.path): (layer.zeros, layer.weights) for layer in found if layer.path[-1] != HEAD}
    zeros, weights = (sum(column) for column in zip(*layers.values(), strict=True))
    return {"zeros": zeros / weights, "layers": layers}
