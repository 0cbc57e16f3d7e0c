"""Dead neurons leave the constant that they put out to the layers that read them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import normjax
from normjax.models import build_model
from normjax.pruning import trace
from normjax.pruning.constants import fold_constants

X = jnp.asarray(np.random.default_rng(3).normal(size=(4, 8, 8, 3)), jnp.float32)


def drawn(model, x, **options):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, **options))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(0.2 + rng.random(leaf.shape), leaf.dtype), shapes)


def killed(variables, dead):
    """Without the incoming weights of some outputs, by layer."""
    params = dict(variables["params"])
    for name, numbers in dead.items():
        params[name] = {**params[name], "kernel": params[name]["kernel"].at[..., jnp.array(numbers)].set(0)}
    return {**variables, "params": params}


def without(model, variables, x, dead, **options):
    neurons = trace(model, variables, x, **options)
    sizes = {group.name: group.size for group in neurons.groups}
    left = {name: sorted(set(range(sizes[name])) - set(numbers)) for name, numbers in dead.items()}
    return normjax.prune(model, variables, x, kept=left, **options)


@pytest.mark.parametrize("examples", [1, 4])
@pytest.mark.parametrize("norm", ["batch_norm", "none"])
def test_dense_layers_take_the_constant_over(norm, examples):
    # relu(beta) went with its neuron, and what was left had another output (NNI, issue 2130). With one example, as
    # normjax prune has it, a bias was once taken for what the kernel reads, and the constants were lost.
    model = build_model("mlp", num_classes=5, norm=normjax.make_norm(norm), widths=(9, 8))
    dead = {"dense0": [0, 4], "dense1": [3]}
    variables = killed(drawn(model, X, train=False), dead)
    smaller = without(model, variables, (X[:examples],), dead, train=False)
    expected = model.apply(variables, X, train=False)
    chex.assert_trees_all_close(smaller.apply(smaller.variables, X, train=False), expected, rtol=2e-5)
    assert smaller.variables["params"]["dense0"]["kernel"].shape == (192, 7)


def test_a_dense_layer_behind_feature_maps_takes_it_over():
    model = build_model("convnet", num_classes=5, norm=normjax.make_norm("batch_norm"), widths=(4, 6), dense=(7,))
    dead = {"conv1_1": [0, 5]}
    variables = killed(drawn(model, X, train=False), dead)
    smaller = without(model, variables, X, dead, train=False)
    expected = model.apply(variables, X, train=False)
    chex.assert_trees_all_close(smaller.apply(smaller.variables, X, train=False), expected, rtol=2e-5)


def test_convolutions_without_a_margin_take_it_over():
    layers = [nn.Conv(6, (3, 3)), nn.relu, nn.Conv(5, (3, 3), padding="VALID"), nn.relu, lambda x: x.mean((1, 2))]
    model = nn.Sequential([*layers, nn.Dense(3)])
    dead = {"layers_0": [2, 3]}
    variables = killed(drawn(model, X), dead)
    smaller = without(model, variables, X, dead)
    chex.assert_trees_all_close(smaller.apply(smaller.variables, X), model.apply(variables, X), rtol=2e-5)


class Twice(nn.Module):
    """Two layers read the same neurons, each in its own way."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6, name="shared")(x)
        return nn.Dense(3, name="a")(nn.relu(h)) + nn.Dense(3, name="b")(-h * h)


class Gated(nn.Module):
    """A neuron without weights that depends on the input all the same."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(6, name="first")(x)) * x[:, :1]
        return nn.Dense(3, name="last")(h)


class Heads(nn.Module):
    """Outputs in two dimensions."""

    @nn.compact
    def __call__(self, x):
        h = nn.relu(nn.Dense(6, name="first")(x))
        return nn.DenseGeneral((3, 3), name="heads")(h).sum(2)


class Looped(nn.Module):
    """A layer that is read in a loop."""

    @nn.compact
    def __call__(self, x):
        def step(module, carry, _):
            return carry + nn.Dense(3, name="inner", parent=module)(h), None

        h = nn.relu(nn.Dense(6, name="first")(x))
        scanned = nn.scan(step, variable_broadcast="params", split_rngs={"params": False}, length=2)
        return scanned(self, jnp.zeros((len(x), 3)), None)[0]


@pytest.mark.parametrize("net", [Twice(), Gated(), Heads(), Looped()], ids=lambda net: type(net).__name__)
def test_where_it_is_not_plain_what_to_change_nothing_is(net):
    # Each of them was given a wrong constant, or ended in a traceback.
    x = X[:, 0, 0]
    dead = {"shared" if isinstance(net, Twice) else "first": [1, 4]}
    variables = killed(drawn(net, x), dead)
    neurons = trace(net, variables, x)
    chex.assert_trees_all_equal(fold_constants(net, variables, neurons, dead, x), variables)


def test_living_neurons_and_residual_streams_are_left_as_they_are():
    model = build_model("resnet20", num_classes=5, norm=normjax.make_norm("batch_norm"), widths=(4, 4, 6))
    variables = drawn(model, X, train=False)
    neurons = trace(model, variables, X, train=False)
    gone = {group.name: {group.size - 1} for group in neurons.groups}
    same = fold_constants(model, variables, neurons, gone, X[:1], train=False)
    chex.assert_trees_all_equal(same, variables)
    # Inside a block: conv1 ends in the stream, whose norms nobody can tell apart here.
    inner = killed(variables, {"stage0_block0_conv0": [3]})
    chex.assert_trees_all_equal(fold_constants(model, inner, neurons, gone, X[:1], train=False), inner)
