"""Eight devices against one on the same global batches, with unequal valid counts a device.

    python -m benchmarks.equivalence --data-dir DATA

Prints the largest difference of a parameter. The valid rows are spread unevenly: device i of 8 has (i + 1)/8 of its
own. Where several batches are tried, each from the same start, it is the median (and the largest) over them. The last
column is chance: the same batches on one device, rows in another order. In float32 a few activations fall on the other
side of a relu, whatever the order of a sum.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from normjax.data import load_dataset, training_batches
from normjax.training.config import TrainConfig, load_config
from normjax.training.session import build_session

_DEVICES = 8
_MODES = ("pmap", "shard_map")
# network, config, batches tried, steps on each, learning rate, type, wanted
_CASES: list[tuple[str, str, int, int, float, Literal["float32", "float64"], float]] = [
    ("ConvNet, digits", "configs/digits_convnet.py", 1, 20, 0.1, "float32", 1e-5),
    ("ResNet-20, CIFAR-10", "configs/cifar10_resnet20_short.py", 6, 1, 0.01, "float32", 1e-5),
    ("ResNet-20, CIFAR-10", "configs/cifar10_resnet20_short.py", 1, 5, 0.1, "float64", 1e-8),
]


def main(data_dir: Path | None = None) -> None:
    """Prints the table.

    Args:
        data_dir: folder with CIFAR-10 as TFDS prepares it
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", _DEVICES)
    table = Table(
        "network", "batches tried", "steps", "learning rate", "type", "pmap", "shard_map", "wanted", "other order"
    )
    for name, file, trials, steps, rate, dtype, wanted in _CASES:
        with jax.enable_x64(dtype == "float64"):
            config = _constant_rate(load_config(Path(file)), rate)
            batches, info = _uneven_batches(config, data_dir, trials * steps, dtype)
            runs = [batches[i : i + steps] for i in range(0, len(batches), steps)]
            alone = _trainer(config, info, dtype, "pmap", 1)
            expected = [alone(run) for run in runs]
            order = np.random.default_rng(0).permutation(config.batch_size)
            eight = {mode: _trainer(config, info, dtype, mode, _DEVICES) for mode in _MODES}
            others = {mode: [train(run) for run in runs] for mode, train in eight.items()}
            others["order"] = [alone([{k: v[order] for k, v in batch.items()} for batch in run]) for run in runs]
        found = {key: [_largest(a, b) for a, b in zip(expected, params, strict=True)] for key, params in others.items()}
        shown = {
            key: f"{np.median(values):.1e}" + (f" ({max(values):.1e})" if trials > 1 else "")
            for key, values in found.items()
        }
        case = (name, str(trials), str(steps), f"{rate:g}", dtype)
        table.add_row(*case, *(shown[mode] for mode in _MODES), f"{wanted:.0e}", shown["order"])
    Console(width=160).print(table)


def _constant_rate(config: TrainConfig, rate: float) -> TrainConfig:
    return config.model_copy(
        update={
            "optimizer": config.optimizer.model_copy(update={"learning_rate": rate}),
            "schedule": config.schedule.model_copy(update={"name": "constant", "warmup_epochs": 0.0}),
        }
    )


def _uneven_batches(config: TrainConfig, data_dir: Path | None, steps: int, dtype: str) -> tuple[list[dict], Any]:
    dataset = load_dataset(config.data, seed=0, data_dir=data_dir)
    rows = config.batch_size // _DEVICES
    valid = np.concatenate([np.arange(rows) < (rows * (device + 1)) // _DEVICES for device in range(_DEVICES)])
    scale = np.array(dataset.info.mean), np.array(dataset.info.std)
    batches = [
        {**batch, "image": ((batch["image"] / 255 - scale[0]) / scale[1]).astype(dtype), "mask": valid}
        for batch in training_batches(
            dataset.train, dataset.augment, batch_size=config.batch_size, seed=0, start=0, stop=steps
        )
    ]
    return batches, dataset.info


def _trainer(config: TrainConfig, info: Any, dtype: str, mode: str, devices: int) -> Callable[[list[dict]], Any]:
    """A function that trains on batches from the seed's start and gives the parameters."""
    run = config.run.model_copy(update={"parallel": mode})
    session = build_session(config.model_copy(update={"run": run}), info, jax.devices()[:devices])
    initial = jax.tree.map(
        lambda leaf: leaf.astype(dtype) if np.issubdtype(leaf.dtype, np.floating) else leaf, session.initial_state()
    )
    if dtype == "float64":
        session = session._replace(model=session.model.clone(dtype=np.float64))
        session = _with_model(session)
    step = session.parallel.map(session.train_step, ("replicated", "replicated"))

    def train(batches: list[dict]) -> Any:
        state = session.parallel.replicate(initial)
        for batch in batches:
            state, _ = jax.block_until_ready(step(state, session.parallel.shard(batch)))
        return session.parallel.fetch(state).params

    return train


def _with_model(session: Any) -> Any:
    """The session with a training step for its (changed) network."""
    from normjax.training.optimizer import make_schedule
    from normjax.training.step import Images, make_train_step

    schedule = make_schedule(session.config, session.total_steps)
    images = Images(session.info.mean, session.info.std)
    return session._replace(train_step=make_train_step(session.model, session.optimizer, schedule, images))


def _largest(a: Any, b: Any) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


if __name__ == "__main__":
    tyro.cli(main)
