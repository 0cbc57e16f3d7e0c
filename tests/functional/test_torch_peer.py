"""The functions against recorded answers of PyTorch, which shares no code with JAX or Flax."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from normjax.functional import RunningStatistics, batch_norm, normalize, update_running_statistics

RECORDED = Path(__file__).parents[1] / "peers" / "torch_batch_norm.npz"
TORCH_MOMENTUM = 0.1  # share of the new value


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as file:
        return dict(file)


@pytest.mark.parametrize("case", ["conv", "dense"])
def test_training_output_gradients_and_running_statistics_are_those_of_torch(recorded, case):
    # Three steps: fault 4 (biased running variance) and a momentum the wrong way round build up from step to step.
    scale, bias, inputs, upstreams = (
        jnp.asarray(recorded[f"{case}/{name}"]) for name in ("scale", "bias", "input", "upstream")
    )

    @jax.jit
    def step(running, x, upstream):
        y, pull, stats = jax.vjp(lambda *arrays: batch_norm(*arrays), x, scale, bias, has_aux=True)
        running = update_running_statistics(running, stats, momentum=1 - TORCH_MOMENTUM, unbiased=True)
        return running, y, pull(upstream)

    running = RunningStatistics(jnp.zeros(3), jnp.ones(3))
    for k, (x, upstream) in enumerate(zip(inputs, upstreams, strict=True)):
        running, y, grads = step(running, x, upstream)
        chex.assert_trees_all_close(y, recorded[f"{case}/output"][k], rtol=1e-4, atol=1e-5)
        expected = [recorded[f"{case}/{name}_gradient"][k] for name in ("x", "scale", "bias")]
        chex.assert_trees_all_close(list(grads), expected, rtol=1e-4, atol=1e-4)
        expected = [recorded[f"{case}/running_{name}"][k] for name in ("mean", "var")]
        chex.assert_trees_all_close(list(running), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", ["conv", "dense"])
def test_inference_output_is_that_of_torch(recorded, case):
    names = ("running_mean", "running_var", "scale", "bias")
    mean, variance, scale, bias = (jnp.asarray(recorded[f"{case}/{name}"]) for name in names)
    y = normalize(jnp.asarray(recorded[f"{case}/input"][0]), mean[-1], variance[-1], scale, bias)
    chex.assert_trees_all_close(y, recorded[f"{case}/evaluated"], rtol=1e-4, atol=1e-5)
