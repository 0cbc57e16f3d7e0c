"""Draws what each layer does to a batch of activations: the pictures of docs/layers.md.

python docs/draw_layers.py
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from normjax import ReferenceBatchNorm, make_norm, reference_pass

EXAMPLES, SIDE, CHANNELS = 4, 12, 8
IMAGES = Path(__file__).parent / "images"
# Marker and shade tell the examples apart, so that they also read in black and white.
STYLES = (("o", "#1f5fa8"), ("^", "#c2500a"), ("s", "#222222"), ("x", "#7a7a7a"))

PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "batch_norm": ("batch_norm", {}),
    "ghost_batch_norm": ("ghost_batch_norm", {"ghost_batch_size": 2}),
    "batch_renorm": ("batch_renorm", {"warmup_steps": 0, "r_steps": 0, "d_steps": 0, "momentum": 0.5}),
    "reference_batch_norm": ("reference_batch_norm", {}),
    "decorrelated_batch_norm": ("decorrelated_batch_norm", {"group_size": 4, "method": "eigh"}),
    "decorrelated_layer_norm": ("decorrelated_layer_norm", {"group_size": 4, "method": "eigh"}),
    "layer_norm": ("layer_norm", {"reduction_axes": (1, 2, 3), "feature_axes": -1}),
    "group_norm": ("group_norm", {"num_groups": 2}),
    "instance_norm": ("instance_norm", {}),
    "rms_norm": ("rms_norm", {"reduction_axes": (1, 2, 3), "feature_axes": -1}),
}


def activations() -> np.ndarray:
    """Examples of unlike brightness and contrast, whose channels are correlated."""
    generator = np.random.default_rng(0)
    mixing = np.eye(CHANNELS) + 0.9 * np.eye(CHANNELS, k=1) + 0.4 * np.eye(CHANNELS, k=-2)
    x = generator.normal(size=(EXAMPLES, SIDE, SIDE, CHANNELS)) @ mixing
    contrast = np.array([0.4, 1.0, 0.7, 1.5])[:, None, None, None]
    brightness = np.array([[3.0, 1.0], [0.0, 4.0], [-3.0, -1.0], [3.0, 5.0]])
    return (contrast * x + np.tile(brightness, CHANNELS // 2)[:, None, None]).astype(np.float32)


def normalised(name: str, options: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """What the layer gives in training; averages and references come from another, brighter batch."""
    module, other = make_norm(name, **options)(use_running_average=False), jnp.asarray(1.5 * x[::-1] + 1)
    variables = module.init(jax.random.key(0), jnp.asarray(x))
    if isinstance(module, ReferenceBatchNorm):
        variables = reference_pass(module, variables, other)
    else:
        variables |= module.apply(variables, other, mutable=["batch_stats"])[1]
    y, _ = module.apply(variables, jnp.asarray(x), mutable=["batch_stats"])
    return np.asarray(y)


def scatter(axes: Axes, x: np.ndarray, title: str) -> None:
    """Two neighbouring channels at some positions of each example."""
    for example, (marker, colour) in zip(x, STYLES, strict=True):
        points = example.reshape(-1, CHANNELS)[::3, :2]
        axes.scatter(*points.T, s=14, marker=marker, color=colour, alpha=0.7, linewidths=1)
    axes.axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.axvline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set(title=title, xlabel="channel 1", ylabel="channel 2")
    limit = 1.05 * np.abs(x[..., :2]).max()
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")


def over_batch(x: np.ndarray) -> np.ndarray:
    """Absolute correlations of the channels over all positions of all examples."""
    return np.abs(np.corrcoef(x.reshape(-1, CHANNELS).T))


def inside_example(x: np.ndarray) -> np.ndarray:
    """Absolute correlations of the channels over the positions of an example, in the mean over the examples."""
    return np.mean([over_batch(example) for example in x], 0)


def correlations(axes: Axes, matrix: np.ndarray, title: str) -> Any:
    """A matrix of correlations in shades of grey."""
    image = axes.imshow(matrix, vmin=0, vmax=1, cmap="Greys")
    ticks = range(CHANNELS)
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
    axes.set_yticks(ticks, [str(tick + 1) for tick in ticks])
    axes.set(title=title, xlabel="channel", ylabel="channel")
    return image


def draw(x: np.ndarray, y: np.ndarray | None, file: Path) -> None:
    """The examples, what became of them, and the correlations of that; without ``y`` those of ``x``."""
    figure = Figure(figsize=(10 if y is None else 13, 3.4), layout="constrained")
    *scatters, batch, example = figure.subplots(1, 3 if y is None else 4)
    scatter(scatters[0], x, "before: four examples")
    if y is not None:
        scatter(scatters[1], y, "after")
    of, when = (x, "before") if y is None else (y, "after")
    correlations(batch, over_batch(of), f"{when}: over the batch")
    image = correlations(example, inside_example(of), f"{when}: inside an example")
    figure.colorbar(image, ax=example, label="|correlation|")
    FigureCanvasAgg(figure)
    figure.savefig(file, dpi=80, facecolor="white")


def main() -> None:
    """Draws them all."""
    x = activations()
    draw(x, None, IMAGES / "layer_none.png")
    for picture, (name, options) in PICTURES.items():
        draw(x, normalised(name, options, x), IMAGES / f"layer_{picture}.png")


if __name__ == "__main__":
    main()
