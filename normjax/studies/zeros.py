"""The share of exact zeros in the hidden kernels of a trained network."""

from pathlib import Path
from typing import Any

from normjax.models.common import HEAD
from normjax.training.evaluate import restore_network
from normjax.training.structure import layers_of


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
    hidden = [layer for layer in layers_of(session, variables) if layer.path[-1] != HEAD]
    layers = {"/".join(layer.path): (layer.zeros, layer.weights) for layer in hidden}
    zeros, weights = (sum(column) for column in zip(*layers.values(), strict=True))
    return {"zeros": zeros / weights, "layers": layers}
