"""Networks without the neurons that are worth least."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import normjax
from normjax.models import build_model
from normjax.training.config import ModelConfig, TrainConfig, WeightNormConfig

WEIGHT_NORMED = TrainConfig(weight_norm=WeightNormConfig(name="structural"))
X = jnp.asarray(np.random.default_rng(3).normal(size=(4, 8, 8, 3)), jnp.float32)


@pytest.fixture(scope="module")
def net():
    model = build_model("convnet", num_classes=5, norm=normjax.make_norm("batch_norm"), widths=(8, 12), dense=(16,))
    return model, model.init(jax.random.key(0), X, train=True)


def test_the_config_is_that_of_the_smaller_network(net):
    # It once named a file of the larger one's weights, and counted neurons in the smaller one.
    model, variables = net
    whole = ModelConfig(
        name="convnet", widths=(10, 12), dense=(16,), weights=Path("w.safetensors"), kept={"conv0_0": range(2, 10)}
    )
    smaller = normjax.prune(model, variables, X, kept={"conv0_0": [0, 3]}, config=TrainConfig(model=whole), train=False)
    assert smaller.config.model.kept["conv0_0"] == (2, 5)
    assert smaller.config.model.weights is None


def test_a_share_of_all_neurons_goes(net):
    model, variables = net
    smaller = normjax.prune(model, variables, X, share=0.25, train=False)
    assert sum(map(len, smaller.kept.values())) == 56 - 14
    width = len(smaller.kept["conv0_0"])
    assert smaller.variables["params"]["conv0_0"]["kernel"].shape == (3, 3, 3, width)
    assert smaller.variables["params"]["conv0_1"]["kernel"].shape[2] == width
    assert smaller.variables["batch_stats"]["norm0_0"]["mean"].shape == (width,)
    assert jnp.isfinite(smaller.apply(smaller.variables, X[:2], train=False)).all()


def test_neurons_that_do_nothing_go_at_no_loss(net):
    # Zero incoming weights, as structural weight normalization makes them, zero scale and bias: no output changes.
    model, variables = net
    dead = {"conv0_1": (1, 5, 6), "conv1_0": (0,), "dense0": (2, 3, 9, 15)}
    variables = jax.tree.map(lambda leaf: leaf, variables)
    for name, numbers in dead.items():
        norm = name.replace("conv", "norm").replace("dense0", "dense_norm0")
        kernel = variables["params"][name]["kernel"]
        variables["params"][name]["kernel"] = kernel.at[..., jnp.array(numbers)].set(0)
        bias = variables["params"][norm]["bias"]
        variables["params"][norm]["bias"] = bias.at[jnp.array(numbers)].set(0)
    smaller = normjax.prune(model, variables, X, share=8 / 56, score="l1", train=False)
    gone = {
        name: tuple(sorted(set(range(n)) - set(smaller.kept[name]))) for name, n in _sizes(model, variables).items()
    }
    assert {name: numbers for name, numbers in gone.items() if numbers} == dead
    expected = model.apply(variables, X, train=False)
    chex.assert_trees_all_close(smaller.apply(smaller.variables, X, train=False), expected, rtol=1e-5, atol=1e-6)


def _sizes(model, variables):
    return {group.name: group.size for group in normjax.pruning.trace(model, variables, X, train=False).groups}


def test_the_scale_of_a_layer_decides_nothing_after_debiasing(net):
    model, variables = net
    scaled = jax.tree.map(lambda leaf: leaf, variables)
    scaled["params"]["conv1_0"]["kernel"] = 10 * variables["params"]["conv1_0"]["kernel"]
    options = {"share": 0.3, "score": "l2", "train": False}
    kept = [normjax.prune(model, v, X, debias="mean", **options).kept for v in (variables, scaled)]
    assert kept[0] == kept[1]
    kept = [normjax.prune(model, v, X, debias="none", **options).kept for v in (variables, scaled)]
    assert kept[0] != kept[1]


def test_training_goes_on_with_its_optimizer(net):
    model, variables = net
    optimizer = optax.sgd(0.1, momentum=0.9)
    state = jax.tree.map(jnp.ones_like, optimizer.init(variables["params"]))
    smaller = normjax.prune(model, variables, X, kept={"conv0_0": [1, 3]}, opt_state=state, train=False)
    assert jax.tree.map(jnp.shape, smaller.opt_state[0].trace) == jax.tree.map(jnp.shape, smaller.variables["params"])

    def loss(params):
        logits, _ = smaller.apply({**smaller.variables, "params": params}, X, train=True, mutable=["batch_stats"])
        return (logits**2).mean()

    params, before = smaller.variables["params"], loss(smaller.variables["params"])
    for _ in range(3):
        updates, state = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        params = optax.apply_updates(params, updates)
    assert loss(params) < before


def test_protected_layers_stay(net):
    model, variables = net
    smaller = normjax.prune(model, variables, X, share=0.4, protected=["conv0_0"], train=False)
    assert smaller.kept["conv0_0"] == tuple(range(8))


def test_a_layer_of_which_one_neuron_is_left_stays_so_when_pruned_again():
    # It is no group of neurons any more, and was taken to be whole.
    config = TrainConfig(model=ModelConfig(name="mlp", widths=(4, 8)))
    options = {"num_classes": 5, "norm": normjax.make_norm("none")}
    model = build_model("mlp", widths=(4, 8), **options)
    variables = model.init(jax.random.key(0), X, train=False)
    once = normjax.prune(model, variables, X, kept={"dense0": [2]}, config=config, train=False)
    small = normjax.inference.Shrunken(model, normjax.pruning.trace(model, variables, X, train=False), once.kept)
    twice = normjax.prune(small, once.variables, X, kept={"dense1": [0, 7]}, config=once.config, train=False)
    assert twice.config.model.kept == {"dense0": (2,), "dense1": (0, 7)}


def test_one_neuron_goes_at_least(net):
    model, variables = net
    kept = normjax.prune(model, variables, X, share=0.001, train=False).kept
    assert sum(map(len, kept.values())) == 56 - 1


def test_a_protected_layer_keeps_what_it_makes_with_others():
    # A name that is not that of a group was said not to be a layer; one that stays whole is protected in any case.
    model = build_model("resnet20", num_classes=5, norm=normjax.make_norm("batch_norm"), widths=(4, 8, 8))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), X, train=False))
    neurons = normjax.pruning.trace(model, variables, X, train=False)
    assert neurons.groups_of(["stage0_block0_conv1", "stage0_block0_conv0", "head"]) == ("stem", "stage0_block0_conv0")


class _Halves(nn.Module):
    """One layer makes two kinds of neurons, another adds to those of an embedding."""

    @nn.compact
    def __call__(self, tokens):
        a, b = jnp.split(nn.Dense(12, name="both")(0.5 * tokens), 2, -1)
        c = nn.Embed(5, 6, name="table")(tokens).mean(1) + nn.Dense(6, name="adds")(nn.relu(a))
        return nn.Dense(3, name="head")(nn.relu(b)) + nn.Dense(3, name="other")(nn.relu(c))


def test_a_protected_layer_keeps_all_that_it_makes():
    # Of a layer that makes two groups the second one went, and an embedding that another layer adds to was no layer.
    tokens = jnp.arange(8).reshape(2, 4) % 5
    model = _Halves()
    variables = model.init(jax.random.key(0), tokens)
    neurons = normjax.pruning.trace(model, variables, tokens)
    assert neurons.groups_of(["both"]) == ("both", "both#2")
    assert neurons.groups_of(["both#2"]) == ("both#2",)
    assert neurons.groups_of(["table"]) == neurons.groups_of(["adds"]) != ()
    kept = normjax.prune(model, variables, tokens, share=0.2, protected=["both"]).kept
    assert len(kept["both"]) == len(kept["both#2"]) == 6


class _Looked(nn.Module):
    """Rows of an embedding, without a layer that makes them."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(4)(nn.Embed(11, 6)(x).mean(1))))


def test_features_of_an_embedding_are_pruned():
    # They were said to stay whole, and the default score knew no kernel that makes them.
    x = jnp.arange(8).reshape(2, 4)
    model = _Looked()
    smaller = normjax.prune(model, model.init(jax.random.key(0), x), x, share=0.4, debias="rank")
    assert {name: len(numbers) for name, numbers in smaller.kept.items()} == {"Embed_0": 4, "Dense_1": 2}
    assert smaller.apply(smaller.variables, x).shape == (2, 3)


class _Sorted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(jnp.sort(nn.Dense(4)(x), -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"share=None and kept=None: give one of them\."),
        ({"share": 0.5, "kept": {}}, "give one of them"),
        ({"share": 1.0}, r"share=1 is out of range; use more than 0 and less than 1\."),
        ({"share": 0.5, "score": "taylor"}, "score='taylor' is not known"),
        ({"share": 0.5, "score": "apoz"}, "score=apoz needs data, and there are none"),
        ({"share": 0.5, "debias": "sum"}, "debias='sum' is not known"),
        ({"share": 0.5, "protected": ["haed"]}, "haed is no layer of this network; use conv0_0"),
        ({"kept": {"conv0_0": [1]}, "protected": ["conv1_0"]}, "protected=.* goes with a share"),
        ({"kept": {"conv0_0": np.arange(8) > 2}}, r"kept of conv0_0 is a mask; give the numbers of what stays"),
        ({"share": 0.5, "config": WEIGHT_NORMED}, "model.kept is of a network with plain kernels"),
        ({"kept": {"head": [0]}}, "kept='head' is no group of neurons of this network; use conv0_0"),
        ({"kept": {"conv0_0": [8]}}, r"kept\['conv0_0'\]=\[8\] must name one neuron or more of 0 to 7\."),
    ],
)
def test_bad_input_is_named(net, options, message):
    model, variables = net
    with pytest.raises(ValueError, match=message):
        normjax.prune(model, variables, X, train=False, **options)


def test_a_network_without_neurons_to_remove_says_why():
    model, x = _Sorted(), jnp.ones((2, 3))
    with pytest.raises(ValueError, match="no neuron that can be removed: sort orders it; an output of the network"):
        normjax.prune(model, model.init(jax.random.key(0), x), x, share=0.5)
