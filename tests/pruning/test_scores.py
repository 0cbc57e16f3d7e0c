"""Scores of neurons, against their formulas in plain numpy and against derivatives taken by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from normjax.pruning import SCORES, ActivationProbe, score, trace
from normjax.pruning.activations import reader
from normjax.tracing import leaf_paths


class Net(nn.Module):
    """A convolution with a norm, flattened into a dense layer; every activation can be asked for."""

    @nn.compact
    def __call__(self, x):
        a = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(nn.Conv(5, (3, 3), name="conv")(x)))
        self.sow("intermediates", "a", a)
        b = nn.relu(nn.Dense(7, name="dense")(a.reshape(len(x), -1)) + self.perturb("shift", jnp.zeros((len(x), 7))))
        self.sow("intermediates", "b", b)
        return nn.Dense(3, name="head")(b)


class Stream(nn.Module):
    """Two layers write to a residual stream, two read it."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6, name="first")(x)
        x = x + nn.Dense(6, name="second")(nn.relu(nn.Dense(4, name="inside")(x)))
        return nn.Dense(3, name="head")(nn.relu(x))


X = jnp.asarray(np.random.default_rng(3).normal(size=(6, 4, 4, 2)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 0, 1, 2])


@pytest.fixture(scope="module")
def net():
    """The network, its variables with statistics that are not those of a fresh one, and its neurons."""
    model = Net()
    variables = {k: v for k, v in model.init(jax.random.key(0), X).items() if k in ("params", "batch_stats")}
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.uniform(0, 0.5, leaf.shape), leaf.dtype), variables)
    return model, variables, trace(model, variables, X)


def each_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def intermediates(model, variables):
    _, state = model.apply(variables, X, mutable=["intermediates"])
    return {name: np.asarray(value[0], np.float64) for name, value in state["intermediates"].items()}


def test_scores_of_weights_are_their_formulas(net):
    _, variables, neurons = net
    leaves = {"/".join(path[1:]): np.asarray(leaf, np.float64) for path, leaf in leaf_paths(variables).items()}
    conv, dense = leaves["conv/kernel"].reshape(-1, 5), leaves["dense/kernel"]
    expected = {
        "l1": np.abs(conv).sum(0),
        "l2": np.linalg.norm(conv, axis=0),
        "bn_gamma": np.abs(leaves["norm/scale"]),
        # Kernel, bias, scale, bias of the norm, and 16 rows of the dense layer.
        "group_magnitude": (
            (conv**2).sum(0)
            + leaves["conv/bias"] ** 2
            + leaves["norm/scale"] ** 2
            + leaves["norm/bias"] ** 2
            + (dense.reshape(16, 5, 7) ** 2).sum((0, 2))
        )
        / 5,
        "fpgm": np.array([np.linalg.norm(conv - conv[:, [i]], axis=0).sum() for i in range(5)]),
    }
    for name, values in expected.items():
        assert set(SCORES) >= {name}
        if name == "bn_gamma":
            with pytest.raises(ValueError, match="score=bn_gamma: no norm with a scale is behind dense; use l2"):
                score(neurons, variables, name)
            found = SCORES[name].function(neurons.groups[0], _evidence(variables))
        else:
            found = score(neurons, variables, name)["conv"]
        np.testing.assert_allclose(found, values, rtol=1e-6)


def _evidence(variables):
    from normjax.pruning.scores import Evidence

    return Evidence(leaf_paths(variables))


def test_a_neuron_that_two_layers_make_has_their_mean():
    x = jnp.ones((2, 5))
    model = Stream()
    variables = model.init(jax.random.key(0), x)
    neurons = trace(model, variables, x)
    kernels = [np.abs(np.asarray(variables["params"][name]["kernel"])).sum(0) for name in ("first", "second")]
    np.testing.assert_allclose(score(neurons, variables, "l1")["first"], np.mean(kernels, 0), rtol=1e-6)


def test_a_copy_is_worth_nothing_to_fpgm(net):
    _, variables, neurons = net
    kernel = variables["params"]["conv"]["kernel"]
    copied = jax.tree.map(lambda leaf: leaf, variables)
    copied["params"]["conv"]["kernel"] = kernel.at[..., 1:].set(kernel[..., :1])
    np.testing.assert_allclose(score(neurons, copied, "fpgm")["conv"], 0, atol=1e-6)


def test_scores_of_activations_are_their_formulas(net):
    model, variables, neurons = net
    sums = ActivationProbe(model, neurons, each_loss).measure(variables, [(X, LABELS)])
    a, b = (intermediates(model, variables)[name] for name in "ab")
    expected = {
        "mean_activation": (np.abs(a).mean((0, 1, 2)), np.abs(b).mean(0)),
        "std_activation": (a.std((0, 1, 2)), b.std(0)),
        "apoz": ((a != 0).mean((0, 1, 2)), (b != 0).mean(0)),
    }
    for name, (conv, dense) in expected.items():
        found = score(neurons, variables, name, activations=sums)
        np.testing.assert_allclose(found["conv"], conv, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found["dense"], dense, rtol=1e-5, atol=1e-7)


def test_taylor_scores_are_derivatives_with_a_gate(net):
    # Removing a neuron is a gate from 1 to 0: here the losses are written down as a function of the gates.
    model, variables, neurons = net
    sums = ActivationProbe(model, neurons, each_loss).measure(variables, [(X, LABELS)])
    params, a = variables["params"], intermediates(model, variables)["a"].astype(np.float32)

    def losses(gate):
        flat = (a * gate).reshape(6, -1)
        b = nn.relu(flat @ params["dense"]["kernel"] + params["dense"]["bias"])
        return each_loss(b @ params["head"]["kernel"] + params["head"]["bias"], LABELS)

    with jax.numpy_rank_promotion("allow"):
        slopes = jax.jacobian(losses)(jnp.ones(5))
    found = {name: score(neurons, variables, name, activations=sums)["conv"] for name in SCORES if "taylor" in name}
    np.testing.assert_allclose(found["taylor_activation"], np.abs(slopes).mean(0) / 16, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["taylor_gate"], (slopes**2).mean(0), rtol=1e-4, atol=1e-8)


def test_batches_add_up(net):
    # The gate's score was once one of batches, whose size an option of evaluation decided.
    model, variables, neurons = net
    whole = ActivationProbe(model, neurons, each_loss).measure(variables, [(X, LABELS)])
    parts = ActivationProbe(model, neurons, each_loss).measure(variables, [(X[:4], LABELS[:4]), (X[4:], LABELS[4:])])
    for name in ("conv", "dense"):
        chex.assert_trees_all_close(whole[name], parts[name], rtol=1e-4, atol=1e-5)


def test_what_is_read_twice_counts_twice():
    # A stream that two layers read: its gate is on both.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5)), jnp.float32)
    model = Stream()
    variables = model.init(jax.random.key(0), x)
    neurons = trace(model, variables, x)
    sums = ActivationProbe(model, neurons, each_loss).measure(variables, [(x, jnp.array([0, 1, 2, 0]))])
    params = jax.tree.map(np.asarray, variables["params"])

    def losses(gate):
        first = x @ params["first"]["kernel"] + params["first"]["bias"]
        inside = nn.relu((gate * first) @ params["inside"]["kernel"] + params["inside"]["bias"])
        stream = first + inside @ params["second"]["kernel"] + params["second"]["bias"]
        logits = (gate * nn.relu(stream)) @ params["head"]["kernel"] + params["head"]["bias"]
        return each_loss(logits, jnp.array([0, 1, 2, 0]))

    with jax.numpy_rank_promotion("allow"):
        slopes = jax.jacobian(losses)(jnp.ones(6))
    np.testing.assert_allclose(sums["first"].taylor, np.abs(slopes).sum(0), rtol=1e-4, atol=1e-6)


class Tokens(nn.Module):
    """A dense network on each of several positions, which may go where the examples are."""

    merged: bool

    @nn.compact
    def __call__(self, x):
        h = x.reshape(-1, x.shape[-1]) if self.merged else x
        h = nn.Dense(3, name="head")(nn.relu(nn.Dense(6, name="inside")(h)))
        return h.reshape(len(x), -1, 3).mean(1)


def test_it_does_not_matter_where_a_network_has_the_examples():
    # The gates were once those of the whole batch, whose derivatives cancelled before they were squared.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 7)), jnp.float32)
    variables = Tokens(merged=False).init(jax.random.key(0), x)
    found = []
    for model in (Tokens(merged=False), Tokens(merged=True)):
        neurons = trace(model, variables, x)
        probe = ActivationProbe(model, neurons, each_loss)
        found.append(probe.measure(variables, [(x, jnp.array([0, 1, 2, 0]))])["inside"])
        seen = reader(model, variables, neurons, "inside", x)(variables, x)
        inside = x @ variables["params"]["inside"]["kernel"]
        chex.assert_trees_all_close(seen, nn.relu(inside).swapaxes(1, 2), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(*found, rtol=1e-4, atol=1e-6)


def test_one_example_is_measured_as_it_is_among_others(net):
    model, variables, neurons = net
    probe = ActivationProbe(model, neurons, each_loss)
    alone = [probe.measure(variables, [(X[i : i + 1], LABELS[i : i + 1])])["dense"].gate for i in range(6)]
    np.testing.assert_allclose(np.sum(alone, 0), probe.measure(variables, [(X, LABELS)])["dense"].gate, rtol=1e-4)


class Placed(nn.Module):
    """A parameter has the shape of one example's activations, and a kernel of one output that of a vector."""

    @nn.compact
    def __call__(self, x):
        h = nn.Dense(6, name="emb")(x)
        before = nn.Dense(5, name="before")(h)
        h = h + self.param("positions", nn.initializers.normal(0.5), (1, *h.shape[1:]))
        a = nn.relu(nn.Dense(4, name="hidden")(h)) + before[..., :4].mean()
        kernel = self.param("kernel", nn.initializers.normal(1.0), (4, 1)) * jnp.ones((4, 1))
        return (a @ kernel).mean(1) * jnp.ones((1, 3)) + before.mean(1)[:, :3]


def test_what_has_the_shape_of_an_example_is_no_activation():
    # Where one example is followed, it was taken for the variable, and what kernels read behind it was not measured.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 7)), jnp.float32)
    model = Placed()
    variables = model.init(jax.random.key(0), x)
    neurons = trace(model, variables, x)
    sums = ActivationProbe(model, neurons, each_loss).measure(variables, [(x, jnp.array([0, 1, 2, 0]))])
    assert {
        group.name: int(sums[group.name].values) for group in neurons.groups if group.name in ("emb", "hidden")
    } == {
        "emb": 2 * 4 * 5,
        "hidden": 4 * 5,
    }


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.Dense(3)(nn.relu(nn.Dense(6, name="inside")(x))), None


class Looped(nn.Module):
    """All its neurons are in a loop."""

    @nn.compact
    def __call__(self, x):
        return nn.scan(_Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)()(x, None)[0]


def test_activations_that_cannot_be_followed_are_said():
    # They were said to be no batch at all.
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    model = Looped()
    variables = model.init(jax.random.key(0), x)
    neurons = trace(model, variables, x)
    sums = ActivationProbe(model, neurons, each_loss).measure(variables, [(x, jnp.array([0, 1, 2, 0]))])
    with pytest.raises(ValueError, match=r"score=apoz: the activations of .*inside cannot be followed"):
        score(neurons, variables, "apoz", activations=sums)


def test_chance_is_the_same_each_time(net):
    _, variables, neurons = net
    one, again, other = (score(neurons, variables, "random", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one["conv"], again["conv"])
    assert (one["conv"] != other["conv"]).all()
    assert one["conv"][0] != one["dense"][0]


def test_bad_scores_are_refused(net):
    model, variables, neurons = net
    with pytest.raises(ValueError, match="score='hrank' is not known; use l1, l2"):
        score(neurons, variables, "hrank")
    with pytest.raises(ValueError, match="score=apoz needs data, and there are none; use one of l1, l2"):
        score(neurons, variables, "apoz")
    with pytest.raises(ValueError, match="batches is empty"):
        ActivationProbe(model, neurons, each_loss).measure(variables, [])
