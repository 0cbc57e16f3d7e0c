"""The same program lowers for CPU, CUDA and TPU, forward and gradient; the CPU part of it is run."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from oracles import numpy_batch_norm, numpy_batch_norm_gradients

from normjax.functional import batch_norm, normalize

PLATFORMS = ("cpu", "cuda", "tpu")


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def exported(f, *arrays):
    """Lowered for all platforms, through bytes as it would travel, and called."""
    program = export.export(jax.jit(f), platforms=PLATFORMS)(*arrays)
    assert program.platforms == PLATFORMS
    return export.deserialize(program.serialize()).call(*arrays)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("fast", [False, True])
def test_training_form_and_gradient_lower_for_all_platforms(fast, masked):
    # A primitive without a rule on an accelerator would be found only there.
    x, upstream, scale, bias = draw(4, 3, 3, 2), draw(4, 3, 3, 2, seed=1), draw(2, seed=2), draw(2, seed=3)
    mask = jnp.arange(4)[:, None, None, None] < 3 if masked else None

    def step(x, scale, bias):
        y, pull = jax.vjp(lambda *a: batch_norm(*a, mask=mask, use_fast_variance=fast)[0], x, scale, bias)
        return y, pull(upstream)

    y, grads = exported(step, x, scale, bias)
    together = {"axes": (0, 1, 2), "mask": mask}
    chex.assert_trees_all_close(y, numpy_batch_norm(x, scale, bias, **together), rtol=1e-4, atol=1e-5)
    expected = numpy_batch_norm_gradients(x, upstream, scale, **together)
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-4)


def test_inference_form_and_gradient_lower_for_all_platforms():
    # Frozen statistics: dx is the upstream gradient times the gain, nothing else.
    x, upstream, mean, variance = draw(4, 3), draw(4, 3, seed=1), draw(3, seed=2), jnp.square(draw(3, seed=3))

    def step(x):
        y, pull = jax.vjp(lambda x: normalize(x, mean, variance), x)
        return y, *pull(upstream)

    gain = 1 / np.sqrt(np.asarray(variance, np.float64) + 1e-5)
    expected = (np.asarray(x) - np.asarray(mean)) * gain, np.asarray(upstream) * gain
    chex.assert_trees_all_close(exported(step, x), expected, rtol=1e-5)
