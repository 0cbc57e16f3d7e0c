"""What the training tests share: a tiny network, its batches, and a plain numpy form of it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.data import DatasetInfo
from normjax.training.config import ModelConfig, NormConfig, OptimizerConfig, RunConfig, ScheduleConfig, TrainConfig
from normjax.training.session import Session, build_session
from normjax.training.state import TrainState, init_state
from normjax.training.step import StepMetrics

MEAN, STD = 0.3, 0.4
EPSILON = 1e-5  # of batch normalization


def tiny_info(side: int = 4, channels: int = 1, **changes: Any) -> DatasetInfo:
    """Digits of a few pixels, 160 to train on."""
    fields = {
        "name": "digits",
        "classes": tuple("0123456789"),
        "image_shape": (side, side, channels),
        "mean": (MEAN,) * channels,
        "std": (STD,) * channels,
        "train_examples": 160,
        "validation_examples": 0,
        "test_examples": 16,
    }
    return DatasetInfo.model_validate({**fields, **changes})


def tiny_config(mode: str = "pmap", **changes: Any) -> TrainConfig:
    """An MLP with two batch norms, plain gradient descent at a constant rate unless said otherwise."""
    fields: dict[str, Any] = {
        "batch_size": 32,
        "epochs": 4,
        "model": ModelConfig(name="mlp", widths=(8, 6)),
        "norm": NormConfig(momentum=0.9),
        "optimizer": OptimizerConfig(learning_rate=0.1, momentum=0, nesterov=False, weight_decay=0),
        "schedule": ScheduleConfig(name="constant", warmup_epochs=0),
        "run": RunConfig(parallel=mode),
    }
    return TrainConfig(**{**fields, **changes})


def draw_batch(size: int = 32, *, seed: int = 0, valid: Any = None, side: int = 4, channels: int = 1) -> dict[str, Any]:
    """Random pixels and labels, and a mask of the rows that count where ``valid`` is given."""
    rng = np.random.default_rng(seed)
    batch = {
        "image": rng.integers(0, 256, (size, side, side, channels), dtype=np.uint8),
        "label": rng.integers(0, 10, size).astype(np.int32),
    }
    return batch if valid is None else {**batch, "mask": np.asarray(valid, bool)}


def scaled(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with floats for pixels, as ``Images`` scales them."""
    return {**batch, "image": ((batch["image"] / 255 - MEAN) / STD).astype(np.float32)}


def uneven_mask(size: int, counts: Sequence[int]) -> np.ndarray:
    """True for the first ``counts[i]`` rows of the i-th of equal parts."""
    rows = size // len(counts)
    return (np.arange(rows) < np.asarray(counts)[:, None]).ravel()


def random_state(session: Session, seed: int = 0) -> TrainState:
    """A state with numbers of no symmetry: scales unlike 1, biases unlike 0, statistics as after some training."""
    rng = np.random.default_rng(seed)
    example = jnp.zeros((1, *session.info.image_shape))
    make = lambda: init_state(  # noqa: E731
        session.model, session.optimizer, example, seed=0, ema=session.config.ema_decay is not None
    )
    abstract = jax.eval_shape(make)

    def number(path: tuple, leaf: Any) -> np.ndarray:
        name, normal = path[-1].key, rng.normal(size=leaf.shape)
        if name == "kernel":
            value = normal / np.sqrt(np.prod(leaf.shape[:-1]) / 2)
        else:
            value = {"scale": 1 + 0.3 * normal, "var": 1 + 0.3 * np.abs(normal)}.get(name, 0.3 * normal)
        return np.asarray(value, leaf.dtype)

    params = jax.tree_util.tree_map_with_path(number, abstract.params)
    model_state = jax.tree_util.tree_map_with_path(number, abstract.model_state)
    zero = np.zeros((), np.int32)
    return TrainState(
        step=zero,
        updates=zero,
        skipped_in_row=zero,
        params=params,
        model_state=model_state,
        opt_state=jax.tree.map(np.asarray, session.optimizer.init(jax.tree.map(jnp.asarray, params))),
        ema=None if abstract.ema is None else jax.tree.map(np.copy, {"params": params, **model_state}),
        reference=None,
    )


class Steps:
    """The training step of a config, mapped over the first few devices."""

    def __init__(self, config: TrainConfig, devices: int = 1, info: DatasetInfo | None = None):
        self.session = build_session(config, info or tiny_info(), jax.devices()[:devices])
        self.parallel = self.session.parallel
        self.step = self.parallel.map(self.session.train_step, ("replicated", "replicated"), donate=True)

    def start(self, seed: int = 0) -> TrainState:
        return random_state(self.session, seed)

    def run(self, batches: Sequence[dict], state: TrainState | None = None) -> tuple[TrainState, list[StepMetrics]]:
        """State after all batches and the metrics of each, as numpy arrays."""
        replicated = self.parallel.replicate(self.start() if state is None else state)
        told = []
        for batch in batches:
            replicated, metrics = self.step(replicated, self.parallel.shard(batch))
            told.append(self.parallel.fetch(metrics))
        return self.parallel.fetch(replicated), told


def numpy_mlp(variables: dict[str, Any], images: Any, *, mask: Any = None, train: bool = True) -> np.ndarray:
    """Logits of the tiny MLP in float64, for images as floats; batch norm by the valid rows, or by what is kept."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    x = np.asarray(images, np.float64).reshape(len(images), -1)
    valid = np.ones(len(x), bool) if mask is None else np.asarray(mask)
    for i in range(2):
        x = x @ params[f"dense{i}"]["kernel"]
        if train:
            mean, variance = x[valid].mean(0), x[valid].var(0)
        else:
            kept = variables["batch_stats"][f"norm{i}"]
            mean, variance = np.asarray(kept["mean"], np.float64), np.asarray(kept["var"], np.float64)
        norm = params[f"norm{i}"]
        x = np.maximum((x - mean) / np.sqrt(variance + EPSILON) * norm["scale"] + norm["bias"], 0)
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> np.ndarray:
    """Of each example, in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_probability = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    target = np.full(logits.shape, smoothing / logits.shape[1])
    target[np.arange(len(labels)), labels] += 1 - smoothing
    return -(target * log_probability).sum(1)
