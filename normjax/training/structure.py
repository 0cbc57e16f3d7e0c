"""The structure of a trained network's kernels, as numbers and as a picture."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.errors import UserError
from normjax.inference import LayerStructure, weight_structure
from normjax.training.evaluate import restore_network
from normjax.training.plots import new_figure, save_figure
from normjax.training.session import Session
from normjax.training.step import Images


def structure_run(path: Path, *, output: Path | None = None, checkpoint: str = "best") -> dict[str, Any]:
    """Looks at the kernels of a run: zeros, dead neurons, neuron scales; draws them.

    Args:
      path: the run directory.
      output: the picture; ``structure.png`` in the run directory where it is None.
      checkpoint: ``best``, ``last`` or a step.

    Returns:
      Run, step, file, the share of zeros in all kernels, and of each layer name, shape, share of zeros, the numbers of
      dead inputs and outputs, and the neuron scales (None where they are not measured).

    Raises:
      UserError: the run or the checkpoint is not there, or the picture cannot be written.
    """
    session, network, step = restore_network(path, checkpoint)
    layers = layers_of(session, network)
    file = output or path / "structure.png"
    try:
        plot_structure(layers, file, f"{session.config.model.name}, step {step:,}")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
    return {
        "run": str(path),
        "step": step,
        "file": str(file),
        "sparsity": sum(layer.zeros for layer in layers) / sum(layer.weights for layer in layers),
        "layers": [
            {
                "name": "/".join(layer.path),
                "shape": list(layer.shape),
                "sparsity": layer.sparsity,
                "dead_inputs": layer.dead_inputs.tolist(),
                "dead_outputs": layer.dead_outputs.tolist(),
                "neuron_scales": None if layer.neuron_scales is None else layer.neuron_scales.tolist(),
            }
            for layer in layers
        ],
    }


def layers_of(session: Session, network: Any) -> list[LayerStructure]:
    """The structure of each layer of a restored network."""
    example = Images(session.info.mean, session.info.std).scale(jnp.zeros((1, *session.info.image_shape), jnp.uint8))
    return weight_structure(session.model, jax.tree.map(jnp.asarray, network), example, train=False)


def plot_structure(layers: list[LayerStructure], file: Path, title: str) -> None:
    """Zeros and dead neurons of each layer as bars, and the spread of the neuron scales where they are measured.

    Args:
      layers: as ``weight_structure`` gives them.
      file: PNG to write.
      title: above the picture.
    """
    measured = [layer for layer in layers if layer.neuron_scales is not None]
    columns = 3 if measured else 2
    figure, (panels,) = new_figure(1, columns, (4.2 * columns, 1.4 + 0.32 * len(layers)))
    names, rows = ["/".join(layer.path) for layer in layers], np.arange(len(layers))
    zeros, dead = panels[:2]
    zeros.barh(rows, [100 * layer.sparsity for layer in layers], color="#1f5fa8", height=0.6)
    zeros.set(title="Zeros", xlabel="weights that are exactly 0 [%]", xlim=(0, 104))
    inputs = [len(layer.dead_inputs) for layer in layers]
    outputs = [len(layer.dead_outputs) for layer in layers]
    dead.barh(rows - 0.18, inputs, color="#c2500a", height=0.34, label="inputs that nothing reads")
    dead.barh(rows + 0.18, outputs, color="white", edgecolor="#222222", hatch="////", height=0.34, label="outputs")
    dead.set(title="Dead neurons", xlabel="neurons", xlim=(0, max(*inputs, *outputs, 4) * 1.1))
    dead.locator_params(axis="x", integer=True)
    dead.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in panels:
        axes.set_yticks(rows, names if axes is zeros else [""] * len(layers))
        axes.set_ylim(len(layers) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.25)
    if measured:
        scales = panels[2]
        for row, layer in enumerate(layers):
            if layer.neuron_scales is not None:
                scales.plot(layer.neuron_scales, np.full(len(layer.neuron_scales), row), "|", color="#1f5fa8", ms=9)
        scales.axvline(1, color="#222222", linestyle=":", linewidth=1)
        scales.set(title="Neuron scales", xlabel="scale of a neuron (each a stroke)")
    save_figure(figure, file, title)
