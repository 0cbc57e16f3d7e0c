"""A look at the neurons of a run: what they are worth, layer by layer, and what those of a layer see."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from scipy.stats import rankdata

from normjax.data import load_dataset
from normjax.errors import UserError
from normjax.pruning.activations import ActivationProbe
from normjax.pruning.debias import debiased, layer_bias
from normjax.pruning.evidence import images_and_classes, plain_network
from normjax.pruning.figures import draw_ranks, draw_seen
from normjax.pruning.inversion import feature_inversion, redundancy
from normjax.pruning.scores import SCORES
from normjax.pruning.scores import score as score_of
from normjax.tracing.neurons import Neurons, trace
from normjax.training.config import TrainConfig
from normjax.training.evaluate import restore_network
from normjax.training.session import build_session
from normjax.training.step import Images

_SCORE_IMAGES = 1000  # that scores of activations are measured on
_PICTURES = (".png", ".pdf", ".svg")
_TWINS = 0.95  # correlation of two pictures above which neurons see the same


def rank_neurons(
    path: Path,
    *,
    score: str,
    debias: str,
    output: Path | None = None,
    checkpoint: str = "best",
    data_dir: Path | None = None,
) -> dict[str, Any]:
    """Scores the neurons of a run, and draws their ranks before and after the debiasing: ``neurons.png``.

    Args:
      path: the run directory.
      score: one of ``normjax.pruning.SCORES``.
      debias: one of ``normjax.pruning.DEBIASES``.
      output: the picture; None is ``neurons.png`` in the run directory.
      checkpoint: ``best``, ``last`` or a step.
      data_dir: where data sets lie, for scores that need data.

    Returns:
      Run, step, score, debiasing, file, how much of the ranking the layer explains before and after, and of each layer
      the number of neurons and the median of their ranks, 0 to 1.

    Raises:
      UserError: the run or the data are not there, or no neuron can be scored so.
    """
    file = output or path / "neurons.png"
    _check_file(file)
    config, model, variables, neurons, step = _network(path, checkpoint)
    activations = None
    try:
        if SCORES[score].needs == "data":
            probe = ActivationProbe(model, neurons, optax.softmax_cross_entropy_with_integer_labels, train=False)
            dataset = load_dataset(config.data, seed=config.seed, data_dir=data_dir, cache_mib=config.run.cache_mib)
            shown = images_and_classes(dataset, _SCORE_IMAGES, config.run.eval_batch_size)
            activations = probe.measure(variables, shown)
        raw = score_of(neurons, variables, score, activations=activations)
        both = {"none": raw, debias: debiased(raw, debias)}
    except ValueError as error:
        raise UserError(str(error)) from error
    bias = {name: layer_bias(scores) for name, scores in both.items()}
    _drawn(file, lambda: draw_ranks(both, bias, file, f"{path.name}, {score}"))
    ranks = {name: _median_ranks(scores) for name, scores in both.items()}
    layers = [
        {"name": group.name, "neurons": group.size, "median_rank": {name: ranks[name][group.name] for name in both}}
        for group in neurons.groups
    ]
    return {
        "run": str(path),
        "step": step,
        "score": score,
        "debias": debias,
        "file": str(file),
        "bias": bias,
        "layers": layers,
    }


def see_neurons(
    path: Path,
    layer: str,
    *,
    image: int = 0,
    steps: int = 300,
    output: Path | None = None,
    checkpoint: str = "best",
    data_dir: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """The pictures on which neurons do what they do on an image, and how alike they are: ``seen_LAYER.png``.

    Args:
      path: the run directory.
      layer: whose neurons.
      image: number of the test image.
      steps: of the search for each picture.
      output: the picture; None is ``seen_LAYER.png`` in the run directory.
      checkpoint: ``best``, ``last`` or a step.
      data_dir: where data sets lie.
      console: where progress is shown.

    Returns:
      Run, step, layer, file, the number of neurons, and the pairs of neurons that see nearly the same, with their
      correlation.

    Raises:
      UserError: the run, the data, the layer or the image are not there.
    """
    file = output or path / f"seen_{layer.replace('/', '.')}.png"
    _check_file(file)
    config, model, variables, neurons, step = _network(path, checkpoint)
    dataset = load_dataset(config.data, seed=config.seed, data_dir=data_dir, cache_mib=config.run.cache_mib)
    if not 0 <= image < len(dataset.test):
        raise UserError(f"image={image} is not there; use 0 to {len(dataset.test) - 1}.")
    pixels, _ = dataset.test.read([image])
    shown = dataset.prepare.apply(pixels, np.empty((1, 0)))[0]
    info = dataset.info
    scaled = np.asarray(Images(info.mean, info.std).scale(jnp.asarray(shown)[None]))[0]
    console = console or Console(quiet=True)
    try:
        with console.status(f"looking for what {layer} sees …"):
            pictures = feature_inversion(model, variables, neurons, layer, scaled, steps=steps, train=False)
    except ValueError as error:
        raise UserError(str(error)) from error
    alike = redundancy(pictures)
    seen = np.clip(pictures * np.asarray(info.std) + np.asarray(info.mean), 0, 1)
    _drawn(file, lambda: draw_seen(shown / 255, seen, alike, file, f"{path.name}, {layer}, test image {image}"))
    pairs = np.argwhere(np.triu(alike, 1) > _TWINS)
    order = np.argsort([-alike[i, j] for i, j in pairs], kind="stable")
    return {
        "run": str(path),
        "step": step,
        "layer": layer,
        "file": str(file),
        "neurons": len(pictures),
        "alike": [[int(i), int(j), float(alike[i, j])] for i, j in pairs[order]],
    }


def _network(path: Path, checkpoint: str) -> tuple[TrainConfig, Any, Any, Neurons, int]:
    session, network, step = restore_network(path, checkpoint)
    config, variables = plain_network(session.config, session.model, session.info.image_shape, network)
    model = build_session(config, session.info, training=False).model
    neurons = trace(model, variables, jnp.zeros((1, *session.info.image_shape)), train=False)
    if not neurons.groups:
        raise UserError(f"{path} has no neuron that could go.")
    return config, model, variables, neurons, step


def _median_ranks(scores: dict[str, np.ndarray]) -> dict[str, float]:
    ranks = rankdata(np.concatenate(list(scores.values())))  # equal scores have equal ranks, as in the figure
    ends = np.cumsum([len(values) for values in scores.values()])
    return {
        name: float(np.median(own) / len(ranks)) for name, own in zip(scores, np.split(ranks, ends[:-1]), strict=True)
    }


def _check_file(file: Path) -> None:
    if file.suffix.lower() not in _PICTURES:
        raise UserError(f"output={file} is no picture; use a name that ends in {', '.join(_PICTURES)}.")
    if not file.parent.is_dir():
        raise UserError(f"output={file} cannot be written: {file.parent} is no directory.")


def _drawn(file: Path, draw: Any) -> None:
    try:
        draw()
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error
