"""One training step and one evaluation step, as one device of many sees them."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from normjax.linen.statistics import BATCH_MOMENTS, REFERENCE_STATS
from normjax.training.reference import reference_statistics
from normjax.training.state import TrainState, evaluated_variables, updated_average
from normjax.transforms import all_finite, select

AXIS = "batch"  # the mapped axis of pmap and shard_map


ReferenceInStep = Literal["kept", "taken", "differentiated"]


class StepMetrics(NamedTuple):
    """What a training step tells, of all devices together."""

    loss: jax.Array  # mean over the valid examples
    correct: jax.Array  # number of right answers
    examples: jax.Array  # number of valid examples
    learning_rate: jax.Array
    gradient_norm: jax.Array
    skipped_in_row: jax.Array  # 0 where the step was taken
    stop: jax.Array | None = None  # devices whose process was asked to stop; None where the batch does not tell


class Evaluation(NamedTuple):
    """Sums over the valid examples of a batch, of all devices together."""

    loss: jax.Array
    correct: jax.Array
    top5: jax.Array  # right answers among the five largest logits
    examples: jax.Array


class Images(NamedTuple):
    """How uint8 pixels become the input of the network: (x / 255 - mean) / std for each channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scale(self, image: jax.Array) -> jax.Array:
        """Pixels as float32, near zero mean and unit variance; floats are taken as scaled already."""
        if not jnp.issubdtype(image.dtype, jnp.integer):
            return image
        shape = (1,) * (image.ndim - 1) + (-1,)
        scaled = image.astype(jnp.float32) / 255 - jnp.array(self.mean, jnp.float32).reshape(shape)
        return scaled / jnp.array(self.std, jnp.float32).reshape(shape)


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    images: Images,
    *,
    micro_batches: int = 1,
    label_smoothing: float = 0.0,
    ema_decay: float | None = None,
    reference: ReferenceInStep = "kept",
    average_statistics: bool = False,
    axis_name: str | None = AXIS,
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, StepMetrics]]:
    """The training step, to be mapped over devices.

    Each micro-batch is normalised by its own statistics; the running statistics move once, by the pooled moments
    of all of them. Gradients and metrics cross the devices in one sum. A step whose loss, gradients, statistics
    or new parameters are not finite changes nothing but ``step`` and ``skipped_in_row``.

    Args:
      model: called as ``model(images, train=True, mask=mask)``.
      optimizer: of the parameters.
      schedule: learning rate by update, for the metrics.
      images: scaling of the pixels.
      micro_batches: parts of the device's batch whose gradients are accumulated.
      label_smoothing: share of the target spread over all classes.
      ema_decay: decay of the averaged weights; None keeps none.
      reference: ``kept`` leaves the reference statistics as they are, ``taken`` takes them in each step, and
        ``differentiated`` lets gradients flow into that, too.
      average_statistics: average the running statistics over the devices, whose groups see different batches.
      axis_name: the mapped axis; None on one device.

    Returns:
      A function (state, batch) -> (state, metrics). A batch may have ``stop``, a number for each device that is summed
      with the gradients, so that all processes learn of a signal at the same step.
    """

    def loss_and_gradient(trained: Any, model_state: Any, batch: dict[str, jax.Array], mutable: list[str]):
        def total_loss(trained: Any):
            logits, updated = model.apply(
                {**model_state, **trained},
                images.scale(batch["image"]),
                train=True,
                mask=batch.get("mask"),
                mutable=mutable,
            )
            losses, right = _losses(logits, batch["label"], label_smoothing)
            valid = batch.get("mask", jnp.ones(right.shape, bool))
            sums = (jnp.where(valid, right, 0).sum(), valid.sum(dtype=jnp.float32))
            return jnp.where(valid, losses, 0).sum(), (updated, sums)

        return jax.value_and_grad(total_loss, has_aux=True)(trained)

    def train_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, StepMetrics]:
        moving = [name for name in state.model_state if name != REFERENCE_STATS]
        batch = dict(batch)
        stop = batch.pop("stop", None)
        parts = _split(batch, micro_batches)
        model_state, sums = state.model_state, None
        trained = {"params": state.params}
        if reference != "kept":
            statistics, pull = jax.vjp(
                lambda params: reference_statistics(
                    model, {**state.model_state, "params": params}, state.reference, images.scale, axis_name
                ),
                state.params,
            )
            model_state = {**model_state, REFERENCE_STATS: statistics}
            if reference == "differentiated":
                trained[REFERENCE_STATS] = statistics
        # Unrolled: XLA runs convolutions inside a loop 16 to 50 times slower on CPU.
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            mutable = moving if len(parts) == 1 else [*(moving if last else []), BATCH_MOMENTS]
            (loss, (updated, counts)), gradients = loss_and_gradient(trained, model_state, part, mutable)
            model_state = {**model_state, **updated}
            sums = _add(sums, (gradients, loss, *counts))
        model_state = {name: model_state[name] for name in state.model_state}
        assert sums is not None
        gradients = sums[0]["params"]
        if reference == "differentiated":
            # One pass back through the reference, for all micro-batches.
            (through,) = pull(sums[0][REFERENCE_STATS])
            gradients = jax.tree.map(jnp.add, gradients, through)
        statistics = {name: model_state[name] for name in moving} if average_statistics else {}
        sums = (gradients, *sums[1:], None if stop is None else stop.sum(), statistics)
        if axis_name is not None:
            sums = lax.psum(sums, axis_name)
        gradients, loss, correct, count, stop, statistics = sums
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        model_state = {**model_state, **jax.tree.map(lambda total: (total / devices).astype(total.dtype), statistics)}
        examples = jnp.maximum(count, 1)
        gradients = jax.tree.map(lambda g: g / examples.astype(g.dtype), gradients)
        loss = loss / examples

        norm = optax.tree.norm(gradients)
        moves, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, moves)
        ema = None
        if ema_decay is not None:
            ema = updated_average(state.ema, {"params": params, **model_state}, state.updates, ema_decay)
        good = all_finite((loss, norm, model_state, params))
        params, model_state, opt_state, ema = select(
            good, (params, model_state, opt_state, ema), (state.params, state.model_state, state.opt_state, state.ema)
        )
        skipped = jnp.where(good, 0, state.skipped_in_row + 1)
        new = state.replace(
            step=state.step + 1,
            updates=state.updates + good.astype(jnp.int32),
            skipped_in_row=skipped,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema=ema,
        )
        rate = jnp.asarray(schedule(state.updates), jnp.float32)
        return new, StepMetrics(loss, correct, count, rate, norm, skipped, stop)

    return train_step


def make_eval_step(
    model: nn.Module, images: Images, *, axis_name: str | None = AXIS
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[Evaluation, jax.Array]]:
    """The evaluation step, to be mapped over devices.

    Args:
      model: called as ``model(images, train=False)``.
      images: scaling of the pixels.
      axis_name: the mapped axis; None on one device.

    Returns:
      A function (state, batch) -> (sums of all devices, this device's logits).
    """

    def eval_step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[Evaluation, jax.Array]:
        logits: Any = model.apply(evaluated_variables(state), images.scale(batch["image"]), train=False)
        losses, right = _losses(logits, batch["label"], 0.0)
        valid = batch["mask"]
        # Not `>`: logits that are not a number are no right answer.
        rank = (~(logits <= jnp.take_along_axis(logits, batch["label"][:, None], 1))).sum(1)
        sums = Evaluation(
            jnp.where(valid, losses, 0).sum(),
            jnp.where(valid, right, 0).sum(),
            (valid & (rank < 5)).sum(dtype=jnp.float32),
            valid.sum(dtype=jnp.float32),
        )
        return (sums if axis_name is None else lax.psum(sums, axis_name)), logits

    return eval_step


def mean_loss(logits: Any, batch: dict[str, jax.Array], smoothing: float) -> jax.Array:
    """The mean cross entropy of one device's valid examples.

    Args:
      logits: of the network.
      batch: labels, and ``mask`` where not all of its rows are valid.
      smoothing: share of the target spread over all classes.
    """
    losses, _ = _losses(logits, batch["label"], smoothing)
    valid = batch.get("mask", jnp.ones(losses.shape, bool))
    return jnp.where(valid, losses, 0).sum() / jnp.maximum(valid.sum(), 1)


def _losses(logits: jax.Array, labels: jax.Array, smoothing: float) -> tuple[jax.Array, jax.Array]:
    """Cross entropy and right answers (0 or 1) of each example, at least in float32."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), smoothing)
    losses = optax.softmax_cross_entropy(logits, target)
    # The largest of logits that are not numbers is the first of them; that is no answer.
    right = (logits.argmax(-1) == labels) & jnp.isfinite(losses)
    return losses, right.astype(jnp.float32)


def _split(batch: dict[str, jax.Array], parts: int) -> list[dict[str, jax.Array]]:
    if parts == 1:
        return [batch]
    pieces = {name: jnp.split(value, parts) for name, value in batch.items()}
    return [{name: pieces[name][i] for name in batch} for i in range(parts)]


def _add(total: Any, new: Any) -> Any:
    return new if total is None else jax.tree.map(jnp.add, total, new)
