"""The proximal transformation: behind any optimizer, exact zeros, by its schedules, and convergence to the minimum."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from normjax.functional import prox_exclusive_sparsity, prox_group_sparsity, prox_l1
from normjax.transforms import proximal


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def params():
    return {"dense": {"kernel": draw(6, 5), "bias": draw(5)}, "norm": {"scale": draw(5)}}


@pytest.mark.parametrize("prox", [prox_exclusive_sparsity, prox_group_sparsity, prox_l1])
@pytest.mark.parametrize("optimizer", [optax.sgd(0.1, momentum=0.9), optax.adam(0.1)])
def test_it_steps_from_where_the_optimizer_arrived(optimizer, prox):
    both = optax.chain(optimizer, proximal(5.0, prox=prox, learning_rate=0.1))
    weights, plain = params(), params()
    state, plain_state = both.init(weights), optimizer.init(plain)
    for seed in range(3):
        gradients = jax.tree.map(lambda leaf, seed=seed: draw(*leaf.shape, seed=seed), weights)
        updates, state = jax.jit(both.update)(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
        moves, plain_state = optimizer.update(gradients, plain_state, plain)
        plain = optax.apply_updates(plain, moves)
        plain["dense"]["kernel"] = prox(plain["dense"]["kernel"], 0.5)
    # Biases and scales take the optimizer's step alone.
    chex.assert_trees_all_close(weights, plain, atol=1e-5)
    np.testing.assert_array_equal(weights["dense"]["kernel"] == 0, plain["dense"]["kernel"] == 0)
    assert np.any(weights["dense"]["kernel"] == 0)


def test_strength_and_learning_rate_follow_their_schedules():
    weights = {"kernel": draw(6, 5)}
    transformation = proximal(
        optax.linear_schedule(0.0, 1.0, 4), prox=prox_l1, learning_rate=optax.piecewise_constant_schedule(0.2, {2: 0.5})
    )
    state = transformation.init(weights)
    for step in (0.0, 0.25 * 0.2, 0.5 * 0.1, 0.75 * 0.1, 0.1, 0.1):
        updates, state = jax.jit(transformation.update)({"kernel": jnp.zeros((6, 5))}, state, weights)
        want = prox_l1(weights["kernel"], step)
        weights = optax.apply_updates(weights, updates)
        chex.assert_trees_all_close(weights["kernel"], want, atol=1e-6)


def test_it_finds_the_minimum_of_loss_and_penalty():
    # Where the optimality condition holds: 0 is in the gradient of the loss plus the subdifferential of the penalty.
    x, target, strength = draw(40, 6), draw(40, 3, seed=1), 0.05

    def loss(w):
        return 0.5 * jnp.square(x @ w - target).sum() / 40

    optimizer = optax.chain(optax.sgd(0.2), proximal(strength, learning_rate=0.2))
    weights = {"kernel": jnp.zeros((6, 3))}
    state = optimizer.init(weights)

    @jax.jit
    def step(weights, state):
        updates, state = optimizer.update(jax.grad(lambda w: loss(w["kernel"]))(weights), state, weights)
        return optax.apply_updates(weights, updates), state

    for _ in range(400):
        weights, state = step(weights, state)
    kernel = np.asarray(weights["kernel"])
    slope = np.asarray(jax.grad(loss)(weights["kernel"]))
    bound = strength * np.abs(kernel).sum(-1, keepdims=True) * np.ones_like(kernel)
    zero = kernel == 0
    assert zero.any()
    assert (~zero).any()
    np.testing.assert_allclose(slope[~zero], (-np.sign(kernel) * bound)[~zero], atol=1e-4)
    assert np.all(np.abs(slope[zero]) <= bound[zero] + 1e-4)


def test_the_strength_of_each_parameter_is_multiplied_by_its_factor():
    weights = {"first": draw(4, 4), "second": draw(4, 4), "bias": draw(4)}
    transformation = proximal(0.5, prox=prox_l1, factors=lambda params: {**params, "first": 1.0, "second": 0.1})
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, weights), transformation.init(weights), weights)
    moved = optax.apply_updates(weights, updates)
    chex.assert_trees_all_close(moved["first"], prox_l1(weights["first"], 0.5), atol=1e-6)
    chex.assert_trees_all_close(moved["second"], prox_l1(weights["second"], 0.05), atol=1e-6)


def test_a_mask_chooses_the_parameters():
    weights = {"first": draw(4, 4), "head": draw(4, 4)}
    transformation = proximal(0.5, prox=prox_l1, mask={"first": True, "head": False})
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, weights), transformation.init(weights), weights)
    assert np.any(updates["first"])
    assert not np.any(updates["head"])


def test_mistakes_are_told():
    with pytest.raises(ValueError, match=r"strength=-1.0 is out of range; use a finite number, 0 or more"):
        proximal(-1.0)
    with pytest.raises(ValueError, match=r"learning_rate=-1.0 is out of range; use a finite number, 0 or more"):
        proximal(1.0, learning_rate=-1.0)
    transformation = proximal(0.5)
    weights = {"kernel": draw(4, 4)}
    with pytest.raises(ValueError, match="params=None: a proximal step needs the parameters"):
        transformation.update(weights, transformation.init(weights))


def test_a_learning_rate_may_be_injected():
    # Under inject_hyperparams it is traced, and a comparison of it would end the training.
    chained = optax.inject_hyperparams(lambda learning_rate: proximal(1.0, learning_rate=learning_rate))(
        learning_rate=0.5
    )
    weights = {"kernel": jnp.array([[3.0, -2.0, 0.2]])}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    updates, _ = jax.jit(chained.update)(zeros, chained.init(weights), weights)
    chex.assert_trees_all_close(optax.apply_updates(weights, updates)["kernel"], jnp.array([[1.75, -0.75, 0.0]]))
