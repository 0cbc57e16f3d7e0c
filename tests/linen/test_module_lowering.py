"""The layer in a network lowers for CPU, CUDA and TPU, in training with its gradient and at inference."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export

import normjax

PLATFORMS = ("cpu", "cuda", "tpu")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def exported(f, *arrays):
    """Lowered for all platforms, through bytes as it would travel, and called."""
    program = export.export(jax.jit(f), platforms=PLATFORMS)(*arrays)
    assert program.platforms == PLATFORMS
    return export.deserialize(program.serialize()).call(*arrays)


@pytest.mark.parametrize("masked", [False, True])
def test_a_training_step_lowers_for_all_platforms(masked):
    # What runs from the exported program is Flax's step.
    x, mask = draw(4, 3, 3, 2), jnp.arange(4)[:, None, None, None] < 3 if masked else None
    ours, theirs = (cls(use_running_average=False, momentum=0.5) for cls in (normjax.BatchNorm, nn.BatchNorm))
    variables = ours.init(jax.random.key(0), x)

    def step(layer, params, stats, x):
        def loss(params, x):
            y, updates = layer.apply({"params": params, "batch_stats": stats}, x, mask=mask, mutable=["batch_stats"])
            return (y**3).sum(), updates["batch_stats"]

        grads, stats = jax.grad(loss, (0, 1), has_aux=True)(params, x)
        return *grads, stats

    given = variables["params"], variables["batch_stats"], x
    with jax.numpy_rank_promotion("allow"):
        expected = jax.jit(lambda *arrays: step(theirs, *arrays))(*given)
    actual = exported(lambda *arrays: step(ours, *arrays), *given)
    chex.assert_trees_all_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_inference_lowers_for_all_platforms():
    # The program a server would load.
    x, layer = draw(4, 3), normjax.BatchNorm(use_running_average=True)
    stats = {"mean": draw(3, seed=1), "var": jnp.square(draw(3, seed=2))}
    params = {"scale": draw(3, seed=3), "bias": draw(3, seed=4)}

    def infer(params, stats, x):
        return layer.apply({"params": params, "batch_stats": stats}, x)

    actual = exported(infer, params, stats, x)
    mean, var, scale, bias = (np.asarray(leaf, np.float64) for leaf in (*stats.values(), *params.values()))
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
