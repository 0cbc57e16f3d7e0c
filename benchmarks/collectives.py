"""Collectives of the compiled training step on four devices, counted in its HLO, with their bytes.

    python -m benchmarks.collectives

For a network with n batch normalizations: n in the forward pass, n in the backward pass, one for gradients and metrics.
"""

import re
from math import prod

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from normjax.data.source import DatasetInfo
from normjax.training.config import ModelConfig, TrainConfig
from normjax.training.session import build_session

_COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")
_ARRAY = re.compile(r"(pred|[subf]\w?\d+)\[([\d,]*)\]")
_NETWORKS = {
    "ConvNet, digits": ((8, 8, 1), ModelConfig()),
    "ResNet-20, CIFAR-10": ((32, 32, 3), ModelConfig(name="resnet20", widths=None)),
}


def count_collectives(hlo: str) -> list[tuple[str, int]]:
    """Kind and bytes of the result of each collective in compiled HLO."""
    return [(kind, sum(map(_bytes, _ARRAY.findall(shapes)))) for shapes, kind in _COLLECTIVE.findall(hlo)]


def compiled_step(shape: tuple[int, int, int], model: ModelConfig, parallel: str) -> tuple[str, int]:
    """HLO of the training step of a network on four devices with a batch of 64, and how many norms it has."""
    config = TrainConfig(model=model).model_copy(
        update={"run": TrainConfig().run.model_copy(update={"parallel": parallel})}
    )
    channels = shape[-1]
    info = DatasetInfo(
        name="shapes only",
        classes=tuple("0123456789"),
        image_shape=shape,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        train_examples=6400,
        validation_examples=0,
        test_examples=0,
    )
    session = build_session(config, info, jax.devices()[:4])
    batch = {"image": np.zeros((64, *shape), np.uint8), "label": np.zeros(64, np.int32)}
    step = session.parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    initial = session.initial_state()
    norms = len(jax.tree.leaves(initial.model_state["batch_stats"])) // 2  # a mean and a variance each
    hlo = step.lower(session.parallel.replicate(initial), session.parallel.shard(batch)).compile().as_text()
    return hlo, norms


def main() -> None:
    """Prints the table; XLA merges some gradients into the all-reduce of a norm, so these are counted together."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 4)
    table = Table("network", "step", "norms", "forward", "bytes", "backward and update", "bytes")
    for name, (shape, model) in _NETWORKS.items():
        for parallel in ("pmap", "shard_map"):
            hlo, norms = compiled_step(shape, model, parallel)
            found = count_collectives(hlo)
            forward = [size for kind, size in found if kind == "all-gather"]
            others = [size for kind, size in found if kind == "all-reduce"]
            assert len(forward) + len(others) == len(found), found
            table.add_row(
                name,
                parallel,
                str(norms),
                f"{len(forward)} all-gather",
                f"{sum(forward):,}",
                f"{len(others)} all-reduce",
                f"{sum(others):,}",
            )
    Console(width=160).print(table)


def _bytes(array: tuple[str, str]) -> int:
    kind, shape = array
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind))
    return prod(int(size) for size in shape.split(",") if size) * bits // 8


if __name__ == "__main__":
    tyro.cli(main)
