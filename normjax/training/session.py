"""Everything that a config and a data set make together: network, optimizer, steps, devices."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from normjax.data.source import DatasetInfo
from normjax.errors import UserError
from normjax.inference import Shrunken, initialize_from_batch
from normjax.linen.statistics import REFERENCE_STATS
from normjax.models import build_model
from normjax.tracing.neurons import trace
from normjax.training.config import TrainConfig
from normjax.training.optimizer import make_optimizer, make_proximal, make_schedule
from normjax.training.parallel import DataParallel
from normjax.training.reference import first_statistics, make_ready, make_refresh
from normjax.training.state import TrainState, init_state
from normjax.training.step import AXIS, Images, ReferenceInStep, make_eval_step, make_train_step
from normjax.training.weights import Flat, fitting, read_weights


class Session(NamedTuple):
    """What training, evaluation and prediction share."""

    config: TrainConfig
    info: DatasetInfo
    model: Any  # a Linen module, or Shrunken
    optimizer: optax.GradientTransformation
    parallel: DataParallel
    total_steps: int
    train_step: Any  # of one device; `parallel` maps it
    eval_step: Any
    refresh: Any  # takes the reference anew between steps; None where it is not due at any
    ready: Any  # makes a state ready to be evaluated; None where it is

    def initial_state(
        self, reference: np.ndarray | None = None, first: np.ndarray | None = None, *, weights: bool = True
    ) -> TrainState:
        """The state before the first step, as numpy arrays.

        Args:
          reference: images of the reference batch, where the norm wants one.
          first: images by which weight-normalised layers are initialised, where the config wants that.
          weights: whether to read the weights that the network starts from, which a run that goes on does not need.

        Raises:
          UserError: the network cannot be built, for example because an option of its norm does not fit, or the
            weights that it is to start from do not fit it.
        """
        assert (reference is not None) == self.config.has_reference
        assert (first is not None) == (self.config.weight_norm.initialize_from is not None)
        start = None
        if weights and (file := self.config.model.weights) is not None:
            like = self.state_like()
            # Statistics of a reference batch are taken anew, under these weights.
            own = {name: tree for name, tree in like.model_state.items() if name != REFERENCE_STATS}
            given = {path: leaf for path, leaf in read_weights(file).items() if path[0] != REFERENCE_STATS}
            start = fitting(given, {"params": like.params, **own}, file)
        taken, shown = (None if images is None else jnp.asarray(images) for images in (reference, first))
        return jax.tree.map(np.asarray, self._make_state(taken, shown, start))

    def state_like(self) -> TrainState:
        """Zeros in the shape of a state, to restore a checkpoint into.

        Raises:
          UserError: the network cannot be built.
        """
        reference = None
        if self.config.has_reference:
            reference = jax.ShapeDtypeStruct((self.config.reference.size, *self.info.image_shape), jnp.uint8)
        return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(self._make_state, reference))

    def _make_state(
        self, reference: jax.Array | None, first: jax.Array | None = None, start: Flat | None = None
    ) -> TrainState:
        scale = Images(self.info.mean, self.info.std).scale

        def prepared(variables: dict[str, Any], reference: jax.Array | None, first: jax.Array | None) -> dict[str, Any]:
            if reference is not None:
                variables[REFERENCE_STATS] = first_statistics(self.model, variables, reference, scale, AXIS)
            if first is not None:
                variables = initialize_from_batch(self.model, variables, scale(first), train=False)
            return variables

        try:
            return init_state(
                self.model,
                self.optimizer,
                jnp.zeros((1, *self.info.image_shape), jnp.float32),
                seed=self.config.seed,
                ema=self.config.ema_decay is not None,
                reference=reference,
                prepare=lambda variables, reference: prepared(variables, reference, first),
                start=start,
            )
        except (TypeError, ValueError) as error:
            name = f"{self.config.model.name} with {self.config.norm.name}"
            if self.config.weight_norm.name != "none":
                name += f" and weight norm {self.config.weight_norm.name}"
            raise UserError(f"{name} cannot be built: {str(error).splitlines()[0]}") from error

    @property
    def eval_batch_size(self) -> int:
        """The configured size, rounded up to a multiple of the devices."""
        devices = len(self.parallel.devices)
        return math.ceil(self.config.run.eval_batch_size / devices) * devices

    def epoch_of(self, step: int) -> float:
        """Passes over the training set after ``step`` steps."""
        return step * self.config.batch_size / self.info.train_examples

    def refreshes_before(self, step: int) -> bool:
        """Whether the reference is taken anew between the step before and this one, counted from 1."""
        return self.refresh is not None and (step - 1) % int(self.config.reference.refresh) == 0

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch, or the training, is over after ``step`` steps."""
        return step == self.total_steps or math.floor(self.epoch_of(step)) > math.floor(self.epoch_of(step - 1))


def build_session(
    config: TrainConfig,
    info: DatasetInfo,
    devices: Sequence[jax.Device] | None = None,
    *,
    training: bool = True,
    after: optax.GradientTransformation | None = None,
) -> Session:
    """Builds what the config describes, for the data set.

    Args:
      config: of the run.
      info: of the data set.
      devices: to run on, all by default.
      training: whether the devices must suit the training step, which a network that is only used does not need.
      after: what follows the optimizer, as the zeros of a search for neurons to remove.

    Raises:
      UserError: the batch cannot be divided among the devices, the classes do not fit, or the widths do not suit
        the network.
    """
    parallel = DataParallel(config.run.parallel, devices, kernel_gradients=config.run.kernel_gradients)
    parts = len(parallel.devices) * config.micro_batches
    if training and config.batch_size % parts:
        raise UserError(
            f"batch_size={config.batch_size} cannot be divided among {len(parallel.devices)} devices x "
            f"{config.micro_batches} micro-batches; use a multiple of {parts}."
        )
    classes = config.model.num_classes or len(info.classes)
    if classes < len(info.classes):
        raise UserError(
            f"model.num_classes={classes} does not fit {info.name} with {len(info.classes)} classes; "
            f"use {len(info.classes)} or more, or leave it out."
        )
    norm = config.norm.factory()
    groups = _groups(config.norm.sync_devices, len(parallel.devices)) if training else None
    try:
        model: Any = build_model(
            config.model.name,
            num_classes=classes,
            norm=lambda **fields: norm(axis_name=AXIS, axis_index_groups=groups, **fields),
            weight_norm=config.weight_norm.factory(),
            widths=config.model.widths,
            dense=config.model.dense,
            dtype=jnp.dtype(config.model.dtype),
        )
        if config.model.kept:
            model = _without_neurons(model, config, info)
    except ValueError as error:
        raise UserError(f"model.{error}") from error
    total_steps = math.ceil(config.epochs * info.train_examples / config.batch_size)
    schedule = make_schedule(config, total_steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    if (prox := make_proximal(config.proximal, schedule, total_steps)) is not None:
        optimizer = optax.chain(optimizer, prox)
    if after is not None:
        optimizer = optax.chain(optimizer, after)
    images = Images(info.mean, info.std)
    train_step = make_train_step(
        model,
        optimizer,
        schedule,
        images,
        micro_batches=config.micro_batches,
        label_smoothing=config.label_smoothing,
        ema_decay=config.ema_decay,
        reference=_reference_in_step(config),
        average_statistics=groups is not None,
    )
    eval_step = make_eval_step(model, images)
    refresh = ready = None
    if config.has_reference and config.reference.refresh != "once":
        # With `once` the statistics are those the network was trained with: none are taken anew.
        ready = make_ready(model, images.scale, AXIS)
        refresh = make_refresh(model, images.scale, AXIS) if config.reference.refresh > 1 else None
    return Session(
        config, info, model, optimizer, parallel, total_steps, train_step, eval_step, refresh=refresh, ready=ready
    )


def _without_neurons(model: nn.Module, config: TrainConfig, info: DatasetInfo) -> Shrunken:
    """The network with the neurons that ``model.kept`` names."""
    image = jnp.zeros((1, *info.image_shape))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=True))
    if config.has_reference:
        scale = Images(info.mean, info.std).scale
        variables[REFERENCE_STATS] = jax.eval_shape(lambda v: first_statistics(model, v, image, scale, AXIS), variables)
    return Shrunken(model, trace(model, variables, image, train=False), config.model.kept)


def _groups(size: int | None, devices: int) -> list[list[int]] | None:
    """The devices that share the statistics of a batch; None where all of them do."""
    if size is None or size == devices:
        return None
    if devices % size:
        divisors = [number for number in range(1, devices + 1) if devices % number == 0]
        raise UserError(f"norm.sync_devices={size} does not divide the {devices} devices; use one of {divisors}.")
    return [list(range(first, first + size)) for first in range(0, devices, size)]


def _reference_in_step(config: TrainConfig) -> ReferenceInStep:
    if not config.has_reference or config.reference.refresh != 1:
        return "kept"
    return "differentiated" if config.norm.options.get("reference_gradient", True) else "taken"
