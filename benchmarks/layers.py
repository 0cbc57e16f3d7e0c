"""Forward and backward pass of each layer against its peers, as ratios of medians.

    python -m benchmarks.layers batch-norm
    python -m benchmarks.layers decorrelated-layer-norm
    python -m benchmarks.layers decorrelated-batch-norm
    python -m benchmarks.layers decorrelated-batch-norm --reference CLONE/extension/normailzation

Every contender runs in a process of its own, in turn, on as many processors as it may use threads. A ratio above 1
says that normjax is faster. PyTorch is in the bench extra; the reference is a clone of
https://github.com/huangleiBuaa/IterNorm-pytorch, whose code is not ours to ship.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import run_in_turn

LayerName = Literal["batch-norm", "decorrelated-layer-norm", "decorrelated-batch-norm"]

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "batch-norm": [
        (128, 32, 32, 16),
        (128, 16, 16, 32),
        (128, 8, 8, 64),
        (32, 56, 56, 64),
        (8, 28, 28, 128),
        (8, 14, 14, 256),
        (8, 7, 7, 512),
        (1024, 256),
    ],
    "decorrelated-layer-norm": [(64, 32, 32, 16), (64, 16, 16, 64), (64, 8, 8, 128)],
    "decorrelated-batch-norm": [(64, 32, 32, 16), (64, 16, 16, 64), (64, 8, 8, 128)],
}
CONTENDERS: dict[str, tuple[str, ...]] = {
    "batch-norm": ("normjax", "flax", "torch"),
    "decorrelated-layer-norm": ("normjax", "flax-layer-norm", "torch"),
    "decorrelated-batch-norm": ("normjax", "flax", "torch"),
}


def compare(
    layer: Annotated[LayerName, tyro.conf.Positional],
    rounds: int = 5,
    threads: int = 1,
    torch: bool = True,
    reference: Path | None = None,
) -> None:
    """Prints milliseconds of each contender and how many times as fast normjax is.

    Args:
        layer: which layer
        rounds: how often each contender runs
        threads: processors a contender may use
        torch: whether PyTorch takes part
        reference: directory of iterative_normalization.py, which then takes part, too
    """
    names = [name for name in CONTENDERS[layer] if torch or name != "torch"]
    options = ["--threads", str(threads)]
    if reference is not None:
        names.append("reference")
        options += ["--reference", str(reference)]
    commands = {name: ["-m", "benchmarks.layers", "contender", name, layer, *options] for name in names}
    results = run_in_turn(commands, rounds=rounds, threads=threads, keep_memory=True)
    peers = names[1:]
    table = Table(
        "shape",
        *(f"{name} [ms]" for name in names),
        *(f"{name} / normjax" for name in peers),
        "temporary memory, normjax / flax",
    )
    ratios: dict[str, list[float]] = {name: [] for name in peers}
    for shape in map(str, SHAPES[layer]):
        times = {name: np.array([result[shape]["ms"] for result in results[name]]) for name in names}
        for name in peers:
            ratios[name].append(float(np.median(times[name] / times["normjax"])))
        memory = results["normjax"][0][shape]["temporary"], results[names[1]][0][shape]["temporary"]
        table.add_row(
            shape,
            *(f"{np.median(times[name]):.3f}" for name in names),
            *(f"{ratios[name][-1]:.2f}" for name in peers),
            f"{memory[0]:,} / {memory[1]:,}",
        )
    means = [f"{np.exp(np.log(ratios[name]).mean()):.3f}" for name in peers]
    table.add_row("geometric mean", *("" for _ in names), *means, "")
    Console(width=160).print(table)


def contender(
    name: Annotated[str, tyro.conf.Positional],
    layer: Annotated[LayerName, tyro.conf.Positional],
    threads: int = 1,
    reference: Path | None = None,
) -> None:
    """One contender; prints one line of JSON.

    Args:
        name: which contender
        layer: which layer
        threads: threads it may use
        reference: directory of iterative_normalization.py
    """
    if reference is not None:
        sys.path.append(str(reference))
    measure = _measure_torch if name in ("torch", "reference") else _measure_jax
    print(json.dumps({str(shape): measure(name, layer, shape, threads) for shape in SHAPES[layer]}))


def _inputs(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return tuple(generator.normal(size=shape).astype(np.float32) for _ in range(2))  # type: ignore[return-value]


def _time(run: Callable[[], Any], seconds: float = 0.5) -> float:
    """Median milliseconds of a call."""
    for _ in range(5):
        run()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1e3


def _measure_jax(name: str, layer: str, shape: tuple[int, ...], threads: int) -> dict[str, float]:
    from flax import linen as nn

    import normjax

    del threads  # the processors of the process decide
    module = {
        ("normjax", "batch-norm"): normjax.BatchNorm(use_running_average=False),
        ("normjax", "decorrelated-layer-norm"): normjax.DecorrelatedLayerNorm(),
        ("normjax", "decorrelated-batch-norm"): normjax.DecorrelatedBatchNorm(use_running_average=False),
        ("flax-layer-norm", "decorrelated-layer-norm"): nn.LayerNorm(
            reduction_axes=tuple(range(1, len(shape))), feature_axes=-1
        ),
    }.get((name, layer), nn.BatchNorm(use_running_average=False))
    return measure_module(module, shape)


def forward_and_backward(module: Any) -> Callable[..., Any]:
    """A function (params, other variables, x, upstream) of the two passes of a Linen module, to be compiled."""
    import jax

    def step(params: Any, state: Any, x: Any, upstream: Any) -> Any:
        def forward(params: Any, x: Any) -> Any:
            return module.apply({"params": params, **state}, x, mutable=["batch_stats"])

        y, pull, updated = jax.vjp(forward, params, x, has_aux=True)
        return y, updated, pull(upstream)

    return step


def measure_module(module: Any, shape: tuple[int, ...], seconds: float = 0.5) -> dict[str, float]:
    """Median milliseconds and temporary bytes of the forward and backward pass of a Linen module."""
    import jax

    from normjax import ReferenceBatchNorm, reference_pass

    x, upstream = map(jax.numpy.asarray, _inputs(shape))
    variables = module.init(jax.random.key(0), x)
    if isinstance(module, ReferenceBatchNorm):
        variables = reference_pass(module, variables, x)
    params = variables.pop("params", {})

    compiled = jax.jit(forward_and_backward(module)).lower(params, variables, x, upstream).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {
        "ms": _time(lambda: jax.block_until_ready(compiled(params, variables, x, upstream)), seconds),
        "temporary": temporary,
    }


def _measure_torch(name: str, layer: str, shape: tuple[int, ...], threads: int) -> dict[str, float]:
    import torch

    from benchmarks.torch_layers import build

    torch.set_num_threads(threads)
    results = []
    # PyTorch's better layout counts: images by channel first, or last.
    for layout in (torch.contiguous_format, torch.channels_last) if len(shape) == 4 else (torch.contiguous_format,):
        x, upstream = (torch.from_numpy(array) for array in _inputs(shape))
        if len(shape) == 4:
            x, upstream = (
                array.permute(0, 3, 1, 2).contiguous(memory_format=layout).detach() for array in (x, upstream)
            )
        x.requires_grad_(True)
        module = build("reference" if name == "reference" else layer, shape[-1], len(shape))

        def step(module: Any = module, x: Any = x, upstream: Any = upstream) -> None:
            x.grad = None
            module.zero_grad(set_to_none=True)
            module(x).backward(upstream)

        results.append(_time(step))
    return {"ms": min(results), "temporary": 0}


if __name__ == "__main__":
    if sys.argv[1:2] == ["contender"]:
        tyro.cli(contender, args=sys.argv[2:])
    else:
        tyro.cli(compare)
