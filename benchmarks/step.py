"""A training step on a CPU: normjax, plain Flax and PyTorch, with the same network and optimizer.

    pip install torch   # the CPU build: see the bench extra
    python -m benchmarks.step

Forward and backward pass and the update of SGD with momentum, in float32, on random images. normjax takes the whole
step of train.py (scaling of pixels, metrics, the guard against numbers that are not finite); plain Flax is the same
network with ``flax.linen.Conv`` and ``flax.linen.BatchNorm`` in a jitted step of ten lines, once more with our batch
norm to see what that costs to compile; PyTorch has its channels last. Each contender runs in a process of its own, in
turn.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import median, run_in_turn

Network = Literal["resnet20", "convnet", "resnet50"]
Contender = Literal["normjax", "normjax, xla", "flax, our norm", "flax", "torch"]


class Case(NamedTuple):
    batch: int
    side: int
    steps: int
    form: dict[str, Any]  # of the network


CASES: dict[str, Case] = {
    "resnet20": Case(128, 32, 12, {"widths": None}),
    "convnet": Case(128, 32, 12, {"widths": (32, 64, 128), "dense": (128, 128)}),
    "resnet50": Case(8, 224, 5, {"widths": None}),
}


def compare(
    networks: tuple[Network, ...] = ("resnet20", "convnet", "resnet50"), rounds: int = 3, threads: int = 2
) -> None:
    """Prints milliseconds per step, the speed relative to plain Flax and to PyTorch, compile time and memory.

    Args:
        networks: networks to time
        rounds: runs of each contender
        threads: processors of each contender
    """
    table = Table(
        "network",
        "contender",
        "step [ms]",
        "speed, Flax = 1",
        "speed, PyTorch = 1",
        "lower + compile [s]",
        "memory [MiB]",
    )
    for network in networks:
        names: tuple[Contender, ...] = get_args(Contender)
        commands = {name: ["-m", "benchmarks.step", "contender", name, "--network", network] for name in names}
        results = run_in_turn(commands, rounds=rounds, threads=threads)
        for name in names:
            own = results[name]

            def ratio(peer: str, own: list[dict[str, Any]] = own, results: Any = results) -> str:
                pairs = [b["milliseconds"] / a["milliseconds"] for a, b in zip(own, results[peer], strict=True)]
                return f"{statistics.median(pairs):.2f}"

            compiled = name != "torch"
            table.add_row(
                network,
                name,
                f"{median(own, 'milliseconds'):,.0f}",
                ratio("flax"),
                ratio("torch"),
                f"{median(own, 'compile_seconds'):.1f}" if compiled else "",
                f"{median(own, 'mebibytes'):,.0f}" if compiled else "",
            )
    Console(width=110).print(table)


def contender(name: Annotated[Contender, tyro.conf.Positional], network: Network) -> None:
    """One contender; prints one line of JSON.

    Args:
        name: contender
        network: network to time
    """
    match name:
        case "torch":
            result = _torch(network)
        case "flax" | "flax, our norm":
            result = _flax(network, own_norm=name != "flax")
        case _:
            result = _normjax(network, "xla" if name == "normjax, xla" else "auto")
    print(json.dumps(result))


def _timed(step: Callable[[], None], count: int) -> dict[str, float]:
    step()
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"milliseconds": 1e3 * statistics.median(times)}


def _compiled(function: Any, state: Any, batch: Any, count: int) -> dict[str, float]:
    """Compiles function(state, batch) -> (state, anything) and times it."""
    import jax

    start = time.perf_counter()
    compiled = function.lower(state, batch).compile()
    seconds = time.perf_counter() - start
    states = [state]

    def step() -> None:
        states.append(compiled(states.pop(), batch)[0])
        jax.block_until_ready(states)

    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    mebibytes = (total - memory.alias_size_in_bytes) / 2**20
    return {**_timed(step, count), "compile_seconds": seconds, "mebibytes": mebibytes}


def _normjax(network: Network, kernel_gradients: Literal["auto", "xla"]) -> dict[str, float]:
    import numpy as np

    from benchmarks.training_step import session_of
    from normjax.training.config import DataConfig, ModelConfig, OptimizerConfig, RunConfig, TrainConfig

    case = CASES[network]
    config = TrainConfig(
        batch_size=case.batch,
        data=DataConfig(name="cifar10"),
        model=ModelConfig(name=network, **case.form),
        optimizer=OptimizerConfig(weight_decay=0.0),
        run=RunConfig(kernel_gradients=kernel_gradients),
    )
    session = session_of(config, case.side)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (case.batch, case.side, case.side, 3), np.uint8)
    labels = generator.integers(0, 10, case.batch).astype(np.int32)
    state = session.parallel.replicate(session.initial_state())
    batch = session.parallel.shard({"image": images, "label": labels})
    step = session.parallel.map(session.train_step, ("replicated", "replicated"), donate=True)
    return _compiled(step, state, batch, case.steps)


def _flax(network: Network, *, own_norm: bool) -> dict[str, float]:
    import jax
    import numpy as np
    import optax
    from flax import linen as nn

    from normjax.functional import xla_convolutions
    from normjax.linen import make_norm
    from normjax.models import build_model

    class FlaxNorm(nn.BatchNorm):
        """Called as our networks call a norm."""

        def __call__(self, x: jax.Array, mask: None = None) -> jax.Array:  # type: ignore[override]
            assert mask is None
            return super().__call__(x)

    case = CASES[network]
    norm: Any = make_norm("batch_norm") if own_norm else FlaxNorm
    model: Any = build_model(network, num_classes=10, norm=norm, **case.form)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(case.batch, case.side, case.side, 3)).astype(np.float32)
    labels = generator.integers(0, 10, case.batch)
    variables = jax.jit(lambda key: model.init(key, images[:1], train=False))(jax.random.key(0))
    optimizer = optax.sgd(0.1, momentum=0.9)

    def step(state: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            kept = {"params": params, "batch_stats": state["batch_stats"]}
            logits, updated = model.apply(kept, batch["image"], train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), updated

        (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, optimizer_state = optimizer.update(gradients, state["optimizer"])
        return {"params": optax.apply_updates(state["params"], updates), **updated, "optimizer": optimizer_state}, value

    state = {**variables, "optimizer": optimizer.init(variables["params"])}
    batch = {"image": images, "label": labels}
    return _compiled(jax.jit(xla_convolutions(step), donate_argnums=0), state, batch, case.steps)


def _torch(network: Network) -> dict[str, float]:
    import os

    import torch
    from torch.nn import functional as F

    from benchmarks import torch_networks

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    case = CASES[network]
    model = getattr(torch_networks, network)().to(memory_format=torch.channels_last)
    images = torch.randn(case.batch, 3, case.side, case.side).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (case.batch,))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return _timed(step, case.steps)


if __name__ == "__main__":
    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(compare)
