"""Magnitude pruning: the smallest of all weights, as many as asked for, by its schedule."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from normjax.transforms import magnitude_pruning


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "first": {"kernel": jnp.asarray(rng.normal(size=(20, 30)), jnp.float32), "bias": jnp.ones(30)},
        "second": {"kernel": jnp.asarray(3 * rng.normal(size=(3, 3, 2, 5)), jnp.float32)},
    }


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.8, 0.999])
def test_the_smallest_weights_of_all_layers_together_are_zero(share):
    weights, gradients = params(), params(1)
    optimizer = optax.chain(optax.sgd(0.1), magnitude_pruning(share))
    updates, _ = jax.jit(optimizer.update)(gradients, optimizer.init(weights), weights)
    got = optax.apply_updates(weights, updates)
    moved = jax.tree.map(lambda w, g: np.asarray(w - 0.1 * g), weights, gradients)
    everything = np.sort(np.abs(np.concatenate([moved["first"]["kernel"].ravel(), moved["second"]["kernel"].ravel()])))
    zeros = round(share * everything.size)
    limit = everything[zeros - 1] if zeros else -1.0
    for layer in moved:
        kernel = moved[layer]["kernel"]
        chex.assert_trees_all_close(got[layer]["kernel"], np.where(np.abs(kernel) > limit + 1e-7, kernel, 0), atol=1e-6)
    assert sum(int((got[layer]["kernel"] == 0).sum()) for layer in moved) == zeros
    chex.assert_trees_all_close(got["first"]["bias"], moved["first"]["bias"])


def test_the_share_follows_its_schedule_and_a_weight_may_come_back():
    weights = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    pruning = magnitude_pruning(optax.piecewise_constant_schedule(0.25, {1: 2.0}))
    state = pruning.init(weights)
    for update, want in (
        ([0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 3.0, 4.0]),
        ([0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 3.0, 4.0]),
        ([9.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 4.0]),
    ):
        updates, state = pruning.update({"kernel": jnp.array([update])}, state, weights)
        weights = optax.apply_updates(weights, updates)
        chex.assert_trees_all_equal(weights["kernel"], jnp.array([want]))


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="sparsity=1 is out of range; use 0 to below 1"):
        magnitude_pruning(1.0)
    pruning = magnitude_pruning(0.5)
    with pytest.raises(ValueError, match="params=None: pruning needs the parameters"):
        pruning.update(params(), pruning.init(params()))
