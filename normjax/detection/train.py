"""Trains a detector on the backbone of a run, and scores it."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from rich.console import Console

from normjax.data.detection import SceneReader, detection_batches, load_scenes
from normjax.data.scenes import Scenes
from normjax.detection.config import DetectionConfig
from normjax.detection.loss import DetectionLosses, detection_losses
from normjax.detection.picture import draw_detections
from normjax.detection.scores import Objects, average_precision, find_objects
from normjax.errors import UserError
from normjax.models.detector import Detections, Detector, locations
from normjax.training.checkpoint import Checkpoints
from normjax.training.evaluate import restore_network
from normjax.training.optimizer import make_optimizer, make_schedule
from normjax.training.parallel import DataParallel
from normjax.training.run_directory import write_json
from normjax.training.step import AXIS, Images


class DetectorState(NamedTuple):
    """What training changes."""

    params: Any
    opt_state: Any


class Detecting(NamedTuple):
    """A trained detector and what it does on the test pictures."""

    summary: dict[str, Any]
    scenes: Scenes
    found: list[Objects]


def train_detector(
    config: DetectionConfig, backbone: Path, workdir: Path, *, data_dir: Path | None, console: Console | None = None
) -> Detecting:
    """Fine-tunes a detector on the convolutional network of a run, whose norms keep their statistics.

    Args:
      config: what to do.
      backbone: directory of the run that trained the network.
      workdir: where checkpoints and ``summary.json`` go; that of an earlier training goes on with it.
      data_dir: where data sets lie.
      console: where progress is shown.

    Returns:
      The summary with the average precisions, the test pictures, and what was found in them.

    Raises:
      UserError: the run has another network, the data are missing or do not fit, pycocotools is not installed, or
        the directory holds the training of another detector.
    """
    console = console or Console(quiet=True)
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError("the scores of a detector need pycocotools: pip install 'normjax[study]'.")
    _remember(config, backbone, workdir)
    session, trained, _ = restore_network(backbone)
    if session.config.model.name != "convnet":
        raise UserError(f"{backbone} trained {session.config.model.name}; a detector takes a convnet.")
    train, test = load_scenes(config.data, seed=config.seed, data_dir=data_dir)
    if train.channels != session.info.image_shape[-1]:
        raise UserError(
            f"{backbone} was trained on images of {session.info.image_shape[-1]} channels, {train.name} has "
            f"{train.channels}."
        )
    widths = session.config.model.widths or (64, 128, 256)
    model = Detector(len(train.classes), session.config.norm.factory(), widths, config.features, config.prototypes)
    size = (config.data.image_size, config.data.image_size)
    where = locations(size, len(widths))
    images = Images(session.info.mean, session.info.std)
    params, statistics = _initial(model, trained, (1, *size, train.channels), config.seed)
    total = math.ceil(config.epochs * len(train) / config.batch_size)
    optimizer = make_optimizer(config.optimizer, make_schedule(config, total))
    parallel = DataParallel()
    if config.batch_size % len(parallel.devices):
        raise UserError(f"batch_size={config.batch_size} cannot be divided among {len(parallel.devices)} devices.")

    def detect(params: Any, pixels: jax.Array) -> Detections:
        said = model.apply({"params": params, **statistics}, images.scale(pixels))
        assert isinstance(said, Detections)
        return said

    def step(state: DetectorState, batch: dict[str, jax.Array]) -> tuple[DetectorState, DetectionLosses]:
        def loss(params: Any) -> tuple[jax.Array, DetectionLosses]:
            said = detect(params, batch["image"])
            masks = batch["instances"] if train.has_masks else None
            each = detection_losses(said, batch["boxes"], batch["labels"], masks, where)
            counts = lax.psum(each[-2:], AXIS)
            responsible, objects = (jnp.maximum(count, 1) for count in counts)
            return (each.classes + each.boxes + each.centres) / responsible + each.masks / objects, each

        (_, each), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        gradients, each = lax.psum((gradients, each), AXIS)
        moves, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        return DetectorState(optax.apply_updates(state.params, moves), opt_state), each

    state = _train(
        config, DetectorState(params, optimizer.init(params)), step, train, total, workdir, parallel, console
    )
    scenes = test.read(range(len(test)))
    found = _find(jax.jit(detect), state.params, scenes, where, size)
    summary = {
        "test": {**average_precision(found, scenes, test.classes), "examples": len(test)},
        "steps": total,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "backbone": str(backbone),
    }
    write_json(workdir / "summary.json", summary)
    draw_detections(scenes, [("found", found)], test.classes, workdir / "detections.png")
    return Detecting(summary, scenes, found)


def _remember(config: DetectionConfig, backbone: Path, workdir: Path) -> None:
    """Writes down what is trained, or checks that it is the same."""
    file = workdir / "config.json"
    description = {"backbone": str(backbone), **config.model_dump(mode="json")}
    if file.exists() and json.loads(file.read_text()) != description:
        raise UserError(f"{workdir} holds the training of another detector; give a new --workdir.")
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{workdir} cannot be written to: {error.strerror}.") from error
    write_json(file, description)


def _initial(model: Detector, trained: dict[str, Any], shape: tuple[int, ...], seed: int) -> tuple[Any, dict[str, Any]]:
    """Parameters, those of the backbone as they were trained, and its statistics."""
    variables = jax.jit(lambda key: model.init(key, jnp.zeros(shape)))(jax.random.key(seed))
    params = dict(variables["params"])
    names = params["backbone"].keys()
    params["backbone"] = {name: trained["params"][name] for name in names}
    statistics = {
        collection: {"backbone": {name: value for name, value in trained[collection].items() if name in names}}
        for collection in trained
        if collection != "params"
    }
    return jax.tree.map(np.asarray, params), jax.tree.map(np.asarray, statistics)


def _train(
    config: DetectionConfig,
    state: DetectorState,
    step: Any,
    train: SceneReader,
    total: int,
    workdir: Path,
    parallel: DataParallel,
    console: Console,
) -> DetectorState:
    state = jax.tree.map(np.asarray, state)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=1)
    try:
        start = checkpoints.latest or 0
        if start:
            state, _ = checkpoints.restore(start, state)
        batches = detection_batches(train, batch_size=config.batch_size, seed=config.seed, start=start, stop=total)
        mapped = parallel.map(step, ("replicated", "replicated"), donate=True)
        replicated, per_epoch = parallel.replicate(state), max(1, len(train) // config.batch_size)
        with console.status("training …"):
            for number, batch in enumerate(batches, start + 1):
                replicated, losses = mapped(replicated, parallel.shard(batch))
                if number % per_epoch == 0 or number == total:
                    told = parallel.fetch(losses)
                    near, objects = max(float(told.locations), 1), max(float(told.objects), 1)
                    if not np.isfinite(sum(told)):
                        raise UserError(f"step {number}: the losses are not finite.")
                    console.print(
                        f"step {number:,} of {total:,}   class {told.classes / near:.3f}   box {told.boxes / near:.3f}"
                        f"   centre {told.centres / near:.3f}   mask {told.masks / objects:.3f}",
                        highlight=False,
                    )
                    state = parallel.fetch(replicated)
                    checkpoints.save(number, state, {})
        checkpoints.wait()
    finally:
        checkpoints.close()
    return state


def _find(detect: Any, params: Any, scenes: Scenes, where: Any, size: tuple[int, int]) -> list[Objects]:
    found: list[Objects] = []
    for start in range(0, len(scenes.image), 50):
        said = jax.device_get(detect(params, jnp.asarray(scenes.image[start : start + 50])))
        found += find_objects(said, where, size)
    return found
