"""The training step of ResNet-50 on ImageNet, compiled for TPU pods: memory, collectives, and what they cost.

    pip install 'jax[tpu]'
    python -m benchmarks.pod
    python -m benchmarks.pod --chips 8 --norms batch_norm
    python -m benchmarks.pod --file pod.json             # keeps what is compiled, and goes on where it was stopped

No TPU is needed: libtpu compiles the step of configs/imagenet_resnet50.py for a described one, in some minutes each.
Memory, collectives, FLOPs and bytes are those of the compiled program. The seconds are estimated from them by the
published figures of a v5e chip (197 TFLOP/s, 819 GB/s of memory, 1,600 Gbit/s between chips) and a latency of 1 us a
hop; nothing was timed.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.collectives import count_collectives

_TOPOLOGIES = {8: (2, 4), 64: (8, 8), 256: (16, 16)}
_FLOPS, _MEMORY, _MEMORY_SIZE = 197e12, 819e9, 16 * 2**30  # of a chip: each second, bytes each second, bytes
_LINKS, _HOP = 100e9, 1e-6  # bytes each second that a chip sends, seconds
_CONFIG = Path(__file__).parents[1] / "configs" / "imagenet_resnet50.py"
_NORMS = ("batch_norm", "batch_norm/8", "batch_norm/32", "reference_batch_norm", "decorrelated_batch_norm")


class Cost(NamedTuple):
    """Of a step on one chip, as compiled."""

    gib: float  # of memory
    collectives: int
    mbytes: float  # that they carry
    flops: float
    bytes_accessed: float
    small: int  # collectives of less than 1 MB, those of the norms
    images: int


def compiled_cost(chips: int, norm: str) -> Cost:
    """Compiles the step for a pod slice.

    Args:
      chips: of the slice.
      norm: name of the norm, and behind a slash how many chips share their statistics.
    """
    import jax
    from jax.experimental import topologies
    from jax.sharding import NamedSharding, PartitionSpec

    from normjax.data.source import DatasetInfo
    from normjax.training.config import NormConfig, load_config
    from normjax.training.session import build_session
    from normjax.training.step import AXIS

    name, _, size = norm.partition("/")
    rows, columns = _TOPOLOGIES[chips]
    devices = topologies.get_topology_desc(platform="tpu", topology_name=f"v5e:{rows}x{columns}").devices
    config = load_config(_CONFIG)
    config = config.model_copy(
        update={
            "norm": NormConfig.model_validate({"name": name, "sync_devices": int(size) if size else None}),
            "run": config.run.model_copy(update={"parallel": "shard_map"}),
        }
    )
    info = DatasetInfo(
        name="shapes only",
        classes=tuple(map(str, range(1000))),
        image_shape=(224, 224, 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        train_examples=1_281_167,
        validation_examples=0,
        test_examples=50_000,
    )
    session = build_session(config, info, devices)

    def placed(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(session.parallel.mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree)

    state = placed(session.state_like(), PartitionSpec())
    batch = {
        "image": np.zeros((config.batch_size, *info.image_shape), np.uint8),
        "label": np.zeros(config.batch_size, np.int32),
    }
    step = session.parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    compiled = step.lower(state, placed(batch, PartitionSpec(AXIS))).compile()
    memory, cost, found = compiled.memory_analysis(), compiled.cost_analysis(), count_collectives(compiled.as_text())
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Cost(
        (used - memory.alias_size_in_bytes) / 2**30,
        len(found),
        sum(size for _, size in found) / 1e6,
        cost["flops"],
        cost["bytes accessed"],
        sum(size < 1_000_000 for _, size in found),
        config.batch_size // chips,
    )


def seconds(cost: Cost, chips: int, norm: str) -> tuple[float, float]:
    """Estimates of what one chip computes and of what the collectives take."""
    compute = max(cost.flops / _FLOPS, cost.bytes_accessed / _MEMORY)
    rows, columns = _TOPOLOGIES[chips]
    across = 2 * (rows // 2 + columns // 2) * _HOP  # there and back over the torus
    share = int(norm.partition("/")[2] or chips)
    near = across * (share / chips) ** 0.5
    large = cost.collectives - cost.small
    return compute, cost.small * near + large * across + 2 * cost.mbytes * 1e6 / _LINKS


def main(
    chips: Sequence[int] = tuple(_TOPOLOGIES),
    norms: Sequence[str] = _NORMS,
    file: Path | None = None,
    one: bool = False,
) -> None:
    """Prints the table.

    Args:
        chips: sizes of the slices, of 8, 64 and 256
        norms: names of norms, batch_norm/8 with statistics shared by 8 chips
        file: keeps the figures of each program, which is then not compiled again
        one: compile the first of both and print its figures as JSON, for the process that makes the table
    """
    if one:
        print(json.dumps(compiled_cost(chips[0], norms[0])))
        return
    table = Table(
        "norm", "chips", "images a chip", "memory [GiB]", "collectives", "[MB]", "compute [ms]", "collectives [ms]"
    )
    console = Console(width=140)
    known = json.loads(file.read_text()) if file and file.exists() else {}
    for norm in norms:
        for count in chips:
            share = int(norm.partition("/")[2] or 1)
            if share >= count:
                continue
            key = f"{norm} on {count}"
            if key not in known:
                console.print(f"compiling {norm} for {count} chips …")
                known[key] = _in_process(count, norm)
                if file:
                    file.write_text(json.dumps(known))
            cost = Cost(*known[key])
            compute, collectives = seconds(cost, count, norm)
            table.add_row(
                norm,
                str(count),
                str(cost.images),
                f"{cost.gib:.2f}",
                str(cost.collectives),
                f"{cost.mbytes:.1f}",
                f"{1e3 * compute:.1f}",
                f"{1e3 * collectives:.1f}",
            )
            assert cost.gib * 2**30 < _MEMORY_SIZE, cost
    console.print(table)


def _in_process(chips: int, norm: str) -> Cost:
    # The compiler would look for the machine's own chips, and gives its memory back with its process only.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    command = [sys.executable, "-m", "benchmarks.pod", "--one", "--chips", str(chips), "--norms", norm]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    tyro.cli(main)
