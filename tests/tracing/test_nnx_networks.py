"""NNX modules as pure functions: followed, made smaller, folded and trained as Linen models are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from network_cases import draw, masked, some_left

import normjax
from normjax.inference.shrink import Shrunken
from normjax.nnx import BatchNorm, pure
from normjax.tracing.neurons import trace

X = draw(4, 8, 8, 3)


class Net(nnx.Module):
    """Norms of Flax and of ours, a depthwise convolution, dropout, a list of layers, an input that is added."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.ours = BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(8, 12, rngs=rngs), nnx.Linear(12, 12, rngs=rngs)])
        self.head = nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.drop(nnx.relu(self.ours(self.depthwise(x))).mean((1, 2)))
        x = nnx.relu(self.blocks[0](x))
        return self.head(x + nnx.relu(self.blocks[1](x)))


@pytest.fixture(autouse=True)
def _their_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def net():
    """Its statistics and scales are drawn, so that no two neurons are alike."""
    module = Net(nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for kind in (nnx.Param, nnx.BatchStat):
        state = nnx.state(module, kind)
        nnx.update(
            module, jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.random(leaf.shape), leaf.dtype), state)
        )
    module.eval()
    return module


def test_a_pure_function_computes_what_the_module_does(net):
    model, variables = pure(net)
    chex.assert_trees_all_close(model.apply(variables, X), net(X), rtol=1e-6)
    assert set(variables) == {"params", "batch_stats", "rng_key", "rng_count"}
    output, after = model.apply(variables, X, train=True, mutable=["batch_stats"])
    net.train()
    chex.assert_trees_all_close(output, net(X), rtol=1e-6)
    chex.assert_trees_all_close(after["batch_stats"]["norm"]["mean"], net.norm.mean.get_value(), rtol=1e-6)
    for mutable in ("batch_stats", True):
        _, same = model.apply(variables, X, train=True, mutable=mutable)
        chex.assert_trees_all_equal(same["batch_stats"], after["batch_stats"])
    # The module that it was made of stays as it was, until it is called itself.
    assert not np.array_equal(variables["batch_stats"]["norm"]["mean"], net.norm.mean.get_value())


def test_a_smaller_module_is_the_masked_one(net):
    model, variables = pure(net)
    neurons = trace(model, variables, X)
    assert {(group.name, group.size) for group in neurons.groups} == {("conv", 8), ("blocks/0", 12)}
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)
    few = smaller.shrink(variables)
    assert few["params"]["depthwise"]["kernel"].shape == (3, 3, 1, 5)
    zeroed = {**variables, "params": masked(neurons, left, {"params": variables["params"]})["params"]}
    chex.assert_trees_all_close(smaller.apply(few, X), model.apply(zeroed, X), rtol=1e-5, atol=1e-6)


def test_a_pruned_module_trains_on(net):
    smaller = normjax.prune(*pure(net), X, share=0.4, train=False)
    others = {name: tree for name, tree in smaller.variables.items() if name != "params"}

    @jax.jit
    def loss(params):
        logits, _ = smaller.apply({**others, "params": params}, X, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(4)).mean()

    params = smaller.variables["params"]
    before, grads = jax.value_and_grad(loss)(params)
    after = loss(jax.tree.map(lambda param, grad: param - 0.01 * grad, params, grads))
    assert after < before


def test_a_module_is_folded(net):
    model, variables = pure(net)
    apply, folded = normjax.fold(model, variables, X)
    chex.assert_trees_all_close(apply(folded, X), net(X), rtol=1e-5, atol=1e-5)
    assert len(apply.folded) == 2
