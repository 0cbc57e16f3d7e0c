"""Fault 4: the running variance biased as Flax has it, or unbiased as the paper and PyTorch have it; a choice."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import normjax

RECORDED = Path(__file__).parents[1] / "peers" / "torch_batch_norm.npz"
STEPS = 3


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED) as file:
        return dict(file)


def three_steps(recorded, case, *, unbiased):
    """The recorded batches through the layer; PyTorch's momentum 0.1 is the share of the new value."""
    layer = normjax.BatchNorm(momentum=0.9, unbiased_running_var=unbiased)
    params = {name: jnp.asarray(recorded[f"{case}/{name}"]) for name in ("scale", "bias")}
    variables = {"params": params, "batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}

    @jax.jit
    def step(variables, x, upstream):
        def forward(params, x):
            return layer.apply({**variables, "params": params}, x, use_running_average=False, mutable=["batch_stats"])

        y, pull, updates = jax.vjp(forward, variables["params"], x, has_aux=True)
        return {**variables, **updates}, y, pull(upstream)

    steps = []
    for x, upstream in zip(recorded[f"{case}/input"], recorded[f"{case}/upstream"], strict=True):
        variables, y, grads = step(variables, x, upstream)
        steps.append((y, grads, variables["batch_stats"]))
    return layer, variables, steps


@pytest.mark.parametrize("case", ["conv", "dense"])
def test_unbiased_running_variance_is_that_of_torch(recorded, case):
    # Output, gradients and state of every step, and the inference that follows from the state.
    layer, variables, steps = three_steps(recorded, case, unbiased=True)
    for k, (y, (dparams, dx), stats) in enumerate(steps):
        chex.assert_trees_all_close(y, recorded[f"{case}/output"][k], rtol=1e-4, atol=1e-5)
        expected = {name: recorded[f"{case}/{name}_gradient"][k] for name in ("scale", "bias", "x")}
        chex.assert_trees_all_close({**dparams, "x": dx}, expected, rtol=1e-4, atol=1e-4)
        expected = {name: recorded[f"{case}/running_{name}"][k] for name in ("mean", "var")}
        chex.assert_trees_all_close(stats, expected, rtol=1e-5, atol=1e-6)
    evaluated = layer.apply(variables, jnp.asarray(recorded[f"{case}/input"][0]), use_running_average=True)
    chex.assert_trees_all_close(evaluated, recorded[f"{case}/evaluated"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["conv", "dense"])
def test_default_running_variance_is_the_biased_one(recorded, case):
    # m/(m-1) of PyTorch's share of each batch is taken out again; for the dense case of 6 rows that is a fifth.
    *_, steps = three_steps(recorded, case, unbiased=False)
    m = recorded[f"{case}/input"][0][..., 0].size
    start = 0.9**STEPS  # what is left of the initial variance 1
    expected = start + (recorded[f"{case}/running_var"][-1] - start) * (m - 1) / m
    chex.assert_trees_all_close(steps[-1][2]["var"], expected, rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_a_mask_leaves_its_own_count_in_the_correction(unbiased):
    # m is the number of values that count, not the size of the batch.
    x, mask = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32), (np.arange(8) < 3)[:, None]
    layer = normjax.BatchNorm(use_running_average=False, momentum=0.0, unbiased_running_var=unbiased)
    variables = layer.init(jax.random.key(0), x)
    _, updates = layer.apply(variables, x, mask=jnp.asarray(mask), mutable=["batch_stats"])
    expected = x[:3].astype(np.float64).var(0, ddof=int(unbiased))
    chex.assert_trees_all_close(updates["batch_stats"]["var"], expected, rtol=1e-5)
