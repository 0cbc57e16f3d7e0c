"""Three updates of each optimizer, against plain numpy loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from normjax.functional import prox_exclusive_sparsity, prox_group_sparsity
from normjax.training.config import OptimizerConfig, ProximalConfig
from normjax.training.optimizer import make_optimizer, make_proximal

DECAY = 0.05


def rate(step):
    return 0.1 / (1 + step)


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (4, 3), "bias": (3,)}, "norm": {"scale": (3,), "bias": (3,)}}
    return jax.tree.map(lambda shape: rng.normal(size=shape), shapes, is_leaf=lambda x: isinstance(x, tuple))


def by_optax(options):
    optimizer = make_optimizer(options, rate)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), draw(0))
    state, course = optimizer.init(params), []
    for step in range(3):
        gradients = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), draw(step + 1))
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        course.append(params)
    return course


def by_numpy(update):
    """``update(weights, gradient, memory, step, decay)`` for each parameter; only the kernel decays."""
    params = draw(0)
    memory = jax.tree.map(lambda leaf: {"m": np.zeros_like(leaf), "v": np.zeros_like(leaf)}, params)
    course = []
    for step in range(3):
        gradients = draw(step + 1)
        params = {
            layer: {
                name: update(
                    value,
                    gradients[layer][name],
                    memory[layer][name],
                    step,
                    DECAY if name == "kernel" else 0.0,
                )
                for name, value in leaves.items()
            }
            for layer, leaves in params.items()
        }
        course.append(params)
    return course


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_the_decay_as_part_of_the_gradient(momentum, nesterov):
    # Sutskever's form as PyTorch has it: the buffer takes the gradient with its L2 term, before the rate.
    def update(w, g, memory, step, decay):
        g = g + decay * w
        memory["m"] = momentum * memory["m"] + g
        return w - rate(step) * (g + momentum * memory["m"] if nesterov else memory["m"])

    options = OptimizerConfig(name="sgd", momentum=momentum, nesterov=nesterov, weight_decay=DECAY)
    chex.assert_trees_all_close(by_optax(options), by_numpy(update), rtol=1e-5, atol=1e-6)


def test_adamw_takes_the_decay_apart_from_the_gradient():
    # Algorithm 2 of Loshchilov & Hutter: the decay is scaled by the rate, not by the second moment.
    b1, b2 = 0.8, 0.95

    def update(w, g, memory, step, decay):
        memory["m"] = b1 * memory["m"] + (1 - b1) * g
        memory["v"] = b2 * memory["v"] + (1 - b2) * g**2
        m, v = memory["m"] / (1 - b1 ** (step + 1)), memory["v"] / (1 - b2 ** (step + 1))
        return w - rate(step) * (m / (np.sqrt(v) + 1e-8) + decay * w)

    options = OptimizerConfig(name="adamw", momentum=b1, b2=b2, weight_decay=DECAY)
    chex.assert_trees_all_close(by_optax(options), by_numpy(update), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_alone_leaves_norms_and_biases_where_they_are(name):
    optimizer = make_optimizer(OptimizerConfig(name=name, weight_decay=DECAY), rate)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), draw(0))
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    for layer, leaf in (("dense", "bias"), ("norm", "scale"), ("norm", "bias")):
        np.testing.assert_array_equal(updates[layer][leaf], 0)
    kernel = params["dense"]["kernel"]
    factor = 1.9 if name == "sgd" else 1.0  # Nesterov's look ahead takes the decay with it
    np.testing.assert_allclose(updates["dense"]["kernel"], -rate(0) * factor * DECAY * kernel, rtol=1e-5)


def test_combined_sparsity_goes_from_the_first_layer_called_to_the_last():
    # By their names alone the stem would come last, and layer 10 before layer 2.
    names = ["stem", *(f"stage{stage}_block{block}" for stage in range(2) for block in range(11))]
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    params = {name: {"kernel": kernel} for name in [*names, "head"]}
    optimizer = make_proximal(ProximalConfig(penalty="combined", strength=0.5), optax.constant_schedule(1.0), 1)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    moved = optax.apply_updates(params, updates)
    for share, name in zip(np.linspace(0, 1, len(names)), names, strict=True):
        grouped = prox_group_sparsity(kernel, float(0.5 * (0.8 - 0.6 * share)))
        want = prox_exclusive_sparsity(grouped, float(0.5 * (0.2 + 0.6 * share)))
        chex.assert_trees_all_close(moved[name]["kernel"], want, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(moved["head"]["kernel"], kernel)
