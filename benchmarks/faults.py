"""Cases that installed peers get wrong, beside what is right and what normjax gives.

    python -m benchmarks.faults

The tests hold normjax to the right answer; this page shows that the cases are not invented. Equinox and PyTorch are in
the bench extra.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import linen as nn
from rich.console import Console
from rich.table import Table

import normjax
from normjax.functional import inverse_sqrt


class Case(NamedTuple):
    """A case and three answers to it."""

    case: str
    peer: str
    theirs: str
    ours: str
    right: str


def unequal_devices() -> Case:
    """Five valid rows on one device and one on the other: the mean of all six."""
    x = np.arange(10, dtype=np.float32).reshape(2, 5, 1)
    mask = np.arange(5)[None, :, None] < np.array([5, 1])[:, None, None]

    def running_mean(layer: type[nn.Module]) -> float:
        module = layer(use_running_average=False, momentum=0.0, axis_name="batch")  # type: ignore[call-arg]
        variables = layer(use_running_average=True).init(jax.random.key(0), x[0])  # type: ignore[call-arg]

        def step(x: Any, mask: Any) -> Any:
            return module.apply(variables, x, mask=mask, mutable=["batch_stats"])[1]["batch_stats"]["mean"]

        return float(jax.pmap(step, axis_name="batch")(x, mask)[0, 0])

    return _case("mean over devices with 5 and 1 valid rows", running_mean, x[mask].mean())


def empty_mask() -> Case:
    """No valid value: nothing may become NaN."""

    def norm(layer: type[nn.Module]) -> float:
        x = jnp.ones((4, 1))
        module = layer(use_running_average=False)  # type: ignore[call-arg]
        variables = module.init(jax.random.key(0), x)
        y, _ = module.apply(variables, x, mask=jnp.zeros((4, 1), bool), mutable=["batch_stats"])
        return float(jnp.abs(y).max())

    return _case("output where no value is valid", norm, "finite")


def padding_gradient() -> Case:
    """NaN in padding: the gradient of the valid rows."""

    def norm(layer: type[nn.Module]) -> float:
        x, mask = jnp.array([[1.0], [2.0], [jnp.nan]]), jnp.array([[True], [True], [False]])
        module = layer(use_running_average=False)  # type: ignore[call-arg]
        variables = module.init(jax.random.key(0), x)

        def loss(x: Any) -> Any:
            y, _ = module.apply(variables, x, mask=mask, mutable=["batch_stats"])
            return jnp.where(mask, y, 0).sum()

        return float(jnp.abs(jax.grad(loss)(x)[:2]).max())

    return _case("gradient of valid rows beside a NaN in padding", norm, "finite")


def large_offset() -> Case:
    """Mean 1e4 and deviation 1 in float32: the variance."""
    x = (np.random.default_rng(0).normal(size=(1000, 1)) + 1e4).astype(np.float32)

    def variance(layer: type[nn.Module]) -> float:
        module = layer(use_running_average=False, momentum=0.0)  # type: ignore[call-arg]
        _, updated = module.apply(module.init(jax.random.key(0), x), x, mutable=["batch_stats"])
        return float(updated["batch_stats"]["var"][0])

    return _case("variance of N(1e4, 1) in float32", variance, x.astype(np.float64).var())


def early_inference() -> Case:
    """Inference after one step on standard normal data: the deviation of the output."""
    import equinox

    x = np.random.default_rng(0).normal(size=(4096, 1)).astype(np.float32)
    layer, state = equinox.nn.make_with_state(equinox.nn.BatchNorm)(1, axis_name="batch", mode="batch")
    call = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = call(x, state)
    inference = jax.vmap(equinox.nn.inference_mode(layer), axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    theirs = float(inference(x, state)[0].std())

    ours = normjax.BatchNorm(use_running_average=False)
    variables = ours.init(jax.random.key(0), x)
    _, updated = ours.apply(variables, x, mutable=["batch_stats"])
    y = ours.clone(use_running_average=True).apply({**variables, **updated}, x)
    return Case(
        "deviation at inference after one step", "Equinox", f"{theirs:.3f}", f"{np.asarray(y).std():.3f}", "about 1"
    )


def newton_iterations() -> Case:
    """Fifteen iterations of Newton in float32 on a covariance of condition 3e4: the largest whitened variance."""
    import torch

    from benchmarks.torch_layers import newton

    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))
    matrix = (rotation @ np.diag(np.geomspace(1, 3e4, 16)) @ rotation.T).astype(np.float32)

    def largest(w: Any) -> float:
        w = np.asarray(w, np.float64)
        return float(np.diagonal(w @ matrix @ w).max())

    theirs = largest(newton(torch.from_numpy(matrix)[None], 15)[0].numpy())
    ours = largest(inverse_sqrt(jnp.asarray(matrix), iterations=15, epsilon=0.0))
    return Case(
        "whitened variance after 15 Newton iterations", "uncoupled form", f"{theirs:.3g}", f"{ours:.3f}", "at most 1"
    )


CASES = (unequal_devices, empty_mask, padding_gradient, large_offset, early_inference, newton_iterations)


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 2)
    table = Table("case", "peer", "peer's answer", "normjax", "right")
    for case in CASES:
        table.add_row(*case())
    Console(width=140).print(table)


def _case(name: str, answer: Callable[[type[nn.Module]], float], right: Any) -> Case:
    shown = right if isinstance(right, str) else f"{right:.3f}"
    return Case(name, "Flax", f"{answer(nn.BatchNorm):.3f}", f"{answer(normjax.BatchNorm):.3f}", shown)


if __name__ == "__main__":
    tyro.cli(main)
