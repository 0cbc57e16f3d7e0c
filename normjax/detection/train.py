"""Trains a detector on the backbone of a run, and scores it."""

import hashlib
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
from normjax.detection.scores import Objects, Precision, find_objects
from normjax.errors import UserError
from normjax.models.detector import Detections, Detector, locations
from normjax.training.checkpoint import Checkpoints
from normjax.training.config import load_config
from normjax.training.evaluate import restore_network
from normjax.training.optimizer import make_optimizer, make_schedule
from normjax.training.parallel import DataParallel
from normjax.training.run_directory import RunDirectory, write_json
from normjax.training.step import AXIS, Images

_SHOWN = 6  # test pictures that are drawn
_AT_A_TIME = 50  # test pictures


class DetectorState(NamedTuple):
    """What training changes."""

    params: Any
    opt_state: Any


class Detecting(NamedTuple):
    """A trained detector, the first test pictures, and what it finds in them."""

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
      The summary with the average precisions, the first test pictures, and what was found in them.

    Raises:
      UserError: the run has another network, the data are missing or do not fit, pycocotools is not installed, or
        the directory holds the training of another detector.
    """
    console = console or Console(quiet=True)
    if importlib.util.find_spec("pycocotools") is None:
        raise UserError("the scores of a detector need pycocotools: pip install 'normjax[study]'.")
    run = RunDirectory(workdir)
    run.acquire()
    try:
        return _carry_out(config, backbone, run, data_dir, console)
    finally:
        run.release()


def _carry_out(
    config: DetectionConfig, backbone: Path, run: RunDirectory, data_dir: Path | None, console: Console
) -> Detecting:
    session, trained, at = restore_network(backbone)
    network = session.config.model
    widths = network.widths or (64, 128, 256)
    if network.name != "convnet" or len(widths) < 2:
        raise UserError(
            f"{backbone} trained {network.name} of {len(widths)} stages; a detector takes a convnet of two or more."
        )
    train, test = load_scenes(config.data, seed=config.seed, data_dir=data_dir)
    if train.channels != session.info.image_shape[-1]:
        raise UserError(
            f"{backbone} was trained on images of {session.info.image_shape[-1]} channels, {train.name} has "
            f"{train.channels}."
        )
    parallel = DataParallel()
    if config.batch_size % len(parallel.devices):
        raise UserError(f"batch_size={config.batch_size} cannot be divided among {len(parallel.devices)} devices.")
    size = (config.data.image_size, config.data.image_size)
    try:
        where = locations(size, len(widths))
    except ValueError as error:
        raise UserError(f"data.image_size: {error}") from error
    norm, weight_norm = session.config.norm.factory(), session.config.weight_norm.factory()
    dtype = jnp.dtype(network.dtype)
    model = Detector(len(train.classes), norm, widths, config.features, config.prototypes, dtype, weight_norm)
    images = Images(session.info.mean, session.info.std)
    params, statistics = _initial(model, trained, (1, *size, train.channels), config.seed)
    total = math.ceil(config.epochs * len(train) / config.batch_size)
    optimizer = make_optimizer(config.optimizer, make_schedule(config, total))
    _remember(config, {"run": str(backbone.resolve()), "step": at, "digest": _digest(trained)}, run)

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

    start = DetectorState(params, optimizer.init(params))
    state = _train(config, start, step, train, total, run, parallel, console)
    precision, shown = Precision(test.classes, size, masks=test.has_masks), min(_SHOWN, len(test))
    found: list[Objects] = []
    compiled = jax.jit(detect)
    for rows in np.array_split(np.arange(len(test)), math.ceil(len(test) / _AT_A_TIME)):
        scenes = test.read(rows)
        said = jax.device_get(compiled(state.params, jnp.asarray(scenes.image)))
        objects = find_objects(said, where, size, masks=test.has_masks)
        precision.add(objects, scenes)
        found += objects[: shown - len(found)]
    summary = {
        "test": {**precision.figures(), "examples": len(test)},
        "steps": total,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "backbone": str(backbone),
    }
    write_json(run.summary_file, summary)
    scenes = test.read(range(shown))
    draw_detections(scenes, [("found", found)], test.classes, run.path / "detections.png")
    return Detecting(summary, scenes, found)


def _digest(trained: Any) -> str:
    """Tells networks apart by their numbers."""
    told = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained):
        told.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return told.hexdigest()


def _remember(config: DetectionConfig, backbone: dict[str, Any], run: RunDirectory) -> None:
    """Writes down what is trained on what, or checks that it is the same."""
    file = run.path / "backbone.json"
    if file.exists():
        if json.loads(file.read_text()) != backbone or load_config(run.config_file, DetectionConfig) != config:
            raise UserError(f"{run.path} holds the training of another detector; give a new --workdir.")
        return
    if foreign := sorted({entry.name for entry in run.path.iterdir()} - {".lock"}):
        raise UserError(f"{run.path} is no directory of a detector: it holds {foreign[0]}; give a new --workdir.")
    write_json(run.config_file, config.model_dump(mode="json"))
    write_json(file, backbone)


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
    run: RunDirectory,
    parallel: DataParallel,
    console: Console,
) -> DetectorState:
    state = jax.tree.map(np.asarray, state)
    checkpoints = Checkpoints(run.checkpoints, keep=1)
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
