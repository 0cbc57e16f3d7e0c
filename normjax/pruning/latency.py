"""How long networks take, side by side in one process."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_CALLS, _WARM = 12, 2


def milliseconds(
    networks: Sequence[tuple[Any, Any]], shape: tuple[int, ...], batches: Sequence[int] = (1, 128)
) -> list[dict[str, float]]:
    """Median time of a call of each network, in turn.

    Args:
      networks: models, called with ``train=False``, and their variables.
      shape: (height, width, channels) of an image.
      batches: images at a time.

    Returns:
      For each network milliseconds by the size of the batch.
    """
    found: list[dict[str, float]] = [{} for _ in networks]
    for size in batches:
        x = jnp.asarray(np.random.default_rng(0).normal(size=(size, *shape)), jnp.float32)
        calls = [_call(model, variables, x) for model, variables in networks]
        times = np.zeros((_CALLS, len(calls)))
        for row in times:
            for i, call in enumerate(calls):
                start = time.perf_counter()
                jax.block_until_ready(call())
                row[i] = 1e3 * (time.perf_counter() - start)
        for i, median in enumerate(np.median(times[_WARM:], 0)):
            found[i][str(size)] = float(median)
    return found


def _call(model: Any, variables: Any, x: jax.Array) -> Callable[[], Any]:
    apply = jax.jit(lambda variables, x: model.apply(variables, x, train=False))
    placed = jax.tree.map(jnp.asarray, variables)
    return lambda: apply(placed, x)
