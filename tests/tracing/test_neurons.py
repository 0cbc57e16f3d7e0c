"""Which dimensions belong together, and networks that run without some of their neurons."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from network_cases import DenseNet, draw, initialised, masked, networks, ours, some_left

import normjax
from normjax.inference.shrink import Shrunken
from normjax.tracing import leaf_paths
from normjax.tracing.neurons import trace


@pytest.fixture(autouse=True)
def _their_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", networks())
def test_a_smaller_network_is_the_masked_one(name):
    model, x, options, groups, size = networks()[name]
    variables = initialised(model, x, **options)
    neurons = trace(model, variables, x, **options)
    assert len(neurons.groups) == groups
    assert size is None or sum(group.size for group in neurons.groups) == size
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)
    few = smaller.shrink(variables)
    expected = jax.jit(lambda v: model.apply(v, x, **options))(masked(neurons, left, variables))
    got = jax.jit(lambda v: smaller.apply(v, x, **options))(few)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))
    # Nothing of what has gone is computed any more.
    before, after = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (variables, few))
    assert after < 0.8 * before


def places(neurons):
    return {(group.name, member[0], member.axis, member.role) for group in neurons.groups for member in group.members}


@pytest.mark.parametrize("name", networks())
def test_one_example_is_followed_as_several_are(name):
    # A bias or a mean has the shape of one example's activations, and was taken for what a kernel reads of them.
    model, x, options, *_ = networks()[name]
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), x, **options))
    one, several = (places(trace(model, variables, few, **options)) for few in (x[:1], x))
    assert one == several


@pytest.mark.parametrize(
    ("name", "norm", "options"),
    [
        ("mlp", "batch_norm", {}),
        ("convnet", "batch_norm", {}),
        ("resnet20", "batch_norm", {}),
        ("convnet", "batch_renorm", {}),
        ("convnet", "ghost_batch_norm", {"ghost_batch_size": 2}),
        ("convnet", "group_norm", {"num_groups": 4}),
        ("convnet", "layer_norm", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_trains_as_the_masked_one_does(name, norm, options):
    # Gradients go through the derivatives that our layers and relu define; statistics are those of what is left.
    model, x, y = ours(name, norm, **options), draw(4, 16, 16, 3), jnp.arange(4)
    variables = initialised(model, x, train=True)
    neurons = trace(model, variables, x, train=False)
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)
    collections = [collection for collection in variables if collection != "params"]

    def gradient(network, variables):
        def loss(params):
            logits, state = network.apply({**variables, "params": params}, x, train=True, mutable=collections)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    (loss, state), grads = gradient(model, masked(neurons, left, variables))
    (small_loss, small_state), small_grads = gradient(smaller, smaller.shrink(variables))
    chex.assert_trees_all_close(small_loss, loss, rtol=1e-5)
    expected = smaller.shrink({"params": grads, **state})
    chex.assert_trees_all_close({"params": small_grads, **small_state}, expected, rtol=1e-3, atol=2e-5)


def test_statistics_are_shared_by_devices():
    # A collective passes what is left as it is.
    model = ours("mlp", "batch_norm", axis_name="batch")
    x = draw(8, 2, 4, 4, 3)
    variables = initialised(ours("mlp"), x[0], train=True)
    neurons = trace(ours("mlp"), variables, x[0], train=False)
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)

    def step(network, variables):
        apply = jax.pmap(
            lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]), "batch", in_axes=(None, 0)
        )
        return apply(variables, x)

    logits, state = step(model, masked(neurons, left, variables))
    small_logits, small_state = step(smaller, smaller.shrink(variables))
    chex.assert_trees_all_close(small_logits, logits, rtol=1e-5, atol=1e-6)
    one = jax.tree.map(lambda leaf: leaf[3], state)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[3], small_state), smaller.shrink(one), rtol=1e-5)


def test_an_optimizer_goes_on_with_what_is_left():
    # After a step, momentum and second moments of what is left are those of the masked network.
    model, x = ours("mlp"), draw(4, 4, 4, 3)
    variables = initialised(model, x, train=False)
    neurons = trace(model, variables, x, train=False)
    left = some_left(neurons)
    smaller, optimizer = Shrunken(model, neurons, left), optax.adamw(0.01)

    def step(network, variables, state):
        def loss(params):
            return (network.apply({**variables, "params": params}, x, train=False) ** 2).sum()

        updates, state = optimizer.update(jax.grad(loss)(variables["params"]), state, variables["params"])
        return {**variables, "params": optax.apply_updates(variables["params"], updates)}, state

    whole = masked(neurons, left, variables)
    whole, state = step(model, whole, optimizer.init(whole["params"]))
    # The mask again: decay and rounding leave what has gone at 0 here, momentum or not.
    few, small_state = smaller.shrink(whole), smaller.shrink_state(state)
    assert jax.tree.map(jnp.shape, small_state[0].mu) == jax.tree.map(jnp.shape, few["params"])
    (small, _), (large, _) = step(smaller, few, small_state), step(model, whole, state)
    chex.assert_trees_all_close(small, smaller.shrink(large), rtol=1e-5, atol=1e-6)


def test_reference_statistics_shrink_too():
    model, x = ours("convnet", "reference_batch_norm"), draw(6, 16, 16, 3)
    variables = normjax.reference_pass(model, initialised(model, x, train=False), x, train=False)
    neurons = trace(model, variables, x, train=False)
    assert [group.size for group in neurons.groups][:6] == [8, 8, 8, 8, 16, 16]
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)
    whole = masked(neurons, left, variables)
    # Taken before or after: the same statistics.
    taken = normjax.reference_pass(smaller, smaller.shrink({"params": variables["params"]}), x, train=False)
    again = normjax.reference_pass(model, {"params": whole["params"]}, x, train=False)
    chex.assert_trees_all_close(taken, smaller.shrink(again), rtol=1e-5, atol=1e-6)
    got, expected = smaller.apply(taken, x, train=False), model.apply(again, x, train=False)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_resnet50_is_followed_whole():
    model = normjax.models.build_model("resnet50", num_classes=1000, norm=normjax.make_norm("batch_norm"))
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    neurons = trace(model, variables, x, train=False)
    assert len(neurons.groups) == 37
    # 3 x 2 + ... convolutions inside blocks of 64 to 512 channels, and the stem and stages that shortcuts tie.
    inside = sum(2 * blocks * width for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)))
    assert sum(group.size for group in neurons.groups) == inside + 64 + 256 + 512 + 1024 + 2048
    assert [whole.path for whole in neurons.whole] == [("params", "head", "kernel")]


def test_members_of_a_neuron():
    # The neurons of the last convolution of a network are H x W rows of the dense layer behind it.
    model, x = ours("convnet"), draw(2, 16, 16, 3)
    neurons = trace(model, initialised(model, x, train=False), x, train=False)
    group = next(group for group in neurons.groups if group.name == "conv2_1")
    found = {("/".join(m.path), m.axis): (m.indices.shape[1], m.role) for m in group.members}
    assert found == {
        ("params/conv2_1/kernel", 3): (1, "out"),
        ("params/norm2_1/scale", 0): (1, "other"),
        ("params/norm2_1/bias", 0): (1, "other"),
        ("batch_stats/norm2_1/mean", 0): (1, "other"),
        ("batch_stats/norm2_1/var", 0): (1, "other"),
        ("params/dense0/kernel", 0): (4, "in"),
    }
    rows = next(m for m in group.members if m.role == "in").indices
    np.testing.assert_array_equal(rows[5], [5, 21, 37, 53])


class _Odd(nn.Module):
    """Features that cannot be removed: sorted, and a softmax over them."""

    @nn.compact
    def __call__(self, x):
        a = jnp.sort(nn.Dense(6, name="ordered")(x), -1)
        b = nn.softmax(nn.Dense(6, name="softmax")(x))
        c = nn.relu(nn.Dense(6, name="free")(x))
        return nn.Dense(2)(a) + nn.Dense(2)(b) + nn.Dense(2)(c)


def test_what_cannot_be_followed_stays_and_is_named():
    model, x = _Odd(), draw(2, 3)
    variables = initialised(model, x)
    neurons = trace(model, variables, x)
    assert [group.name for group in neurons.groups] == ["free"]
    reasons = {whole.path[1]: whole.reasons for whole in neurons.whole}
    assert reasons["ordered"] == ("sort orders it",)
    assert "reduce_sum over it" in reasons["softmax"]
    assert reasons["Dense_0"] == ("an output of the network",)


class _Counted(nn.Module):
    """A loop whose carry begins at zero and does not stay there."""

    @nn.compact
    def __call__(self, x):
        features = jnp.exp(nn.Dense(6, name="summed")(x))

        def step(carry, _):
            return carry + features, (2 * carry).sum(-1)

        _, sums = jax.lax.scan(step, jnp.zeros_like(features), None, length=3)
        return nn.Dense(2)(sums.T)


def test_a_carry_that_begins_at_zero_is_not_taken_for_zero():
    # What is added to it is 1 where weights are 0, so its sum changes with every feature that goes.
    model, x = _Counted(), draw(2, 3)
    assert trace(model, initialised(model, x), x).groups == ()


@jax.custom_vjp
def _rounded(x):
    return jnp.round(x)


def _backward(shape, gradient):
    # Straight through, and of the size it was traced with.
    assert gradient.shape == shape
    return (3 * gradient,)


_rounded.defvjp(lambda x: (jnp.round(x), x.shape), _backward)


class _Rounded(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(_rounded(4 * nn.Dense(6)(x)))


def test_the_backward_pass_that_a_network_defines_is_taken():
    # Differentiated as it stands, rounding would have no gradient at all.
    model, x = _Rounded(), draw(4, 3)
    variables = initialised(model, x)
    neurons = trace(model, variables, x)
    left = some_left(neurons)
    smaller = Shrunken(model, neurons, left)

    def gradient(network, variables):
        return jax.jit(jax.grad(lambda v: (network.apply(v, x) ** 2).sum()))(variables)

    expected = smaller.shrink(gradient(model, masked(neurons, left, variables)))
    assert float(jnp.abs(expected["params"]["Dense_0"]["kernel"]).max()) > 0.1
    chex.assert_trees_all_close(gradient(smaller, smaller.shrink(variables)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"Conv_9": [0]}, "kept='Conv_9' is no group of neurons of this network; use Conv_0"),
        ({"Conv_1": [0, 4]}, r"kept\['Conv_1'\]=\[0, 4\] must name one neuron or more of 0 to 3"),
        ({"Conv_1": []}, r"kept\['Conv_1'\]=\[\] must name one neuron or more of 0 to 3"),
        ({"Conv_1": [-1]}, "must name one neuron or more"),
    ],
)
def test_neurons_that_are_not_there_are_refused(left, message):
    model, x = DenseNet(), draw(2, 8, 8, 3)
    neurons = trace(model, initialised(model, x), x)
    with pytest.raises(ValueError, match=message):
        Shrunken(model, neurons, left)


def test_variables_of_another_size_are_refused():
    model, x = DenseNet(), draw(2, 8, 8, 3)
    variables = initialised(model, x)
    smaller = Shrunken(model, trace(model, variables, x), {"Conv_1": [0, 2]})
    with pytest.raises(ValueError, match=r"mean has \(12,\); what is left of it in this network is \(10,\)"):
        smaller.apply(variables, x)


def test_a_call_that_ties_what_has_gone_is_refused():
    # In training another branch sums over the features that inference lets go one by one.
    class TwoWays(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            h = nn.relu(nn.Dense(6)(x))
            return nn.Dense(2)(jnp.sort(h, -1) if train else h)

    model, x = TwoWays(), draw(2, 3)
    variables = initialised(model, x, train=False)
    smaller = Shrunken(model, trace(model, variables, x, train=False), {"Dense_0": [1, 2]})
    with pytest.raises(ValueError, match="cannot do without what has gone: sort orders it"):
        smaller.apply(smaller.shrink(variables), x, train=True)


def test_leaves_have_the_names_they_had():
    model, x = ours("mlp"), draw(2, 4, 4, 3)
    variables = initialised(model, x, train=False)
    smaller = Shrunken(model, trace(model, variables, x, train=False), {"dense0": range(5)})
    made = smaller.init(jax.random.key(0), x, train=False)
    assert list(leaf_paths(made)) == list(leaf_paths(variables))
    assert made["params"]["dense1"]["kernel"].shape == (5, 24)
