"""The reference pass: what it takes, who may take it, and what a network does with it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.test_util import check_grads

import normjax
from normjax import nnx as normjax_nnx
from normjax.functional import moments

MODES = ["virtual", "mixed", "fixed", "renorm"]


class Net(nn.Module):
    """Two dense layers, each with a norm."""

    options: dict | None = None

    @nn.compact
    def __call__(self, x, train=True, mask=None):
        for i in range(2):
            x = nn.Dense(4, use_bias=False, name=f"dense{i}")(x)
            norm = normjax.ReferenceBatchNorm(use_running_average=not train, name=f"norm{i}", **(self.options or {}))
            x = nn.tanh(norm(x, mask=mask))
        return x


def draw(*shape, seed=0, shift=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + shift, jnp.float32)


REFERENCE = draw(16, 3, seed=1, shift=0.5)


def ready(**options):
    """A network and its variables after a reference pass."""
    net = Net(options)
    return net, normjax.reference_pass(net, net.init(jax.random.key(0), REFERENCE), REFERENCE)


def test_every_layer_keeps_the_statistics_of_the_reference_normalised_by_itself():
    _, variables = ready()
    x = np.asarray(REFERENCE, np.float64)
    for i in range(2):
        x = x @ np.asarray(variables["params"][f"dense{i}"]["kernel"], np.float64)
        kept = variables["reference_stats"][f"norm{i}"]
        expected = {"count": np.full(4, 16.0), "mean": x.mean(0), "var": x.var(0), "examples": np.float32(16)}
        chex.assert_trees_all_close(kept, expected, rtol=1e-5, atol=1e-6)
        x = np.tanh((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5))


def test_the_reference_is_normalised_to_mean_zero_and_variance_one():
    layer = normjax.ReferenceBatchNorm(use_running_average=False)
    y, _ = layer.apply(layer.init(jax.random.key(0), REFERENCE), REFERENCE, mutable=["reference_stats"])
    chex.assert_trees_all_close((y.mean(0), y.var(0)), (jnp.zeros(3), jnp.ones(3)), atol=1e-4)


def test_init_takes_no_reference():
    assert set(Net().init(jax.random.key(0), REFERENCE)) == {"params"}


@pytest.mark.parametrize("train", [True, False])
def test_a_live_pass_without_a_reference_says_how_to_take_one(train):
    net = Net()
    variables = net.init(jax.random.key(0), REFERENCE)
    with pytest.raises(ValueError, match=r"layer norm0 has no reference statistics; take them by .*reference_pass"):
        net.apply(variables, REFERENCE, train=train, mutable=["batch_stats"])


@pytest.mark.parametrize("mutable", [True, ["batch_stats", "reference_stats"]])
def test_mutable_collections_never_switch_in_silence(mutable):
    # `mutable=True` in a training step would else make each batch its own reference.
    net, variables = ready()
    with pytest.raises(ValueError, match="'reference_stats' and 'batch_stats' are both mutable"):
        net.apply(variables, REFERENCE, mutable=mutable)


def test_a_training_step_leaves_the_reference_as_it_is():
    net, variables = ready()
    _, updated = net.apply(variables, draw(5, 3), mutable=["batch_stats"])
    assert not updated


@pytest.mark.parametrize("flows", [True, False])
def test_gradients_flow_into_the_reference_pass_or_not(flows):
    net, variables = ready(reference_gradient=flows)
    x = draw(5, 3)

    def taken_anew(params):
        fresh = normjax.reference_pass(net, {"params": params}, REFERENCE)
        return jnp.square(net.apply(fresh, x) - 1).sum()

    def kept(params):
        return jnp.square(net.apply({**variables, "params": params}, x) - 1).sum()

    anew, old = jax.grad(taken_anew)(variables["params"]), jax.grad(kept)(variables["params"])
    differs = not np.allclose(anew["dense0"]["kernel"], old["dense0"]["kernel"], rtol=1e-2)
    assert differs == flows
    if flows:
        with jax.enable_x64():
            wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), variables["params"])
            check_grads(jax.jit(taken_anew), (wide,), order=1, modes=["rev"])
    else:
        chex.assert_trees_all_close(anew, old, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_of_an_example_does_not_depend_on_the_others(mode):
    net, variables = ready(mode=mode)
    x = draw(6, 3, shift=2.0)
    alone = jnp.concatenate([net.apply(variables, row[None], train=False) for row in x])
    chex.assert_trees_all_close(net.apply(variables, x, train=False), alone, rtol=1e-5, atol=1e-6)


def test_an_example_weighs_as_one_of_the_reference_whatever_its_size():
    # Counted by values, a picture of twice the side would weigh four times as much (a detector's scenes).
    layer = normjax.ReferenceBatchNorm(use_running_average=False)
    reference, x = draw(16, 4, 4, 3, seed=1), draw(5, 8, 8, 3, shift=2.0)
    variables = normjax.reference_pass(layer, layer.init(jax.random.key(0), reference), reference)
    wide, c = np.asarray(x, np.float64), 1 / 17
    m_r, q_r = (np.asarray(reference, np.float64) ** power for power in (1, 2))
    mean = c * wide.mean((1, 2), keepdims=True) + (1 - c) * m_r.mean((0, 1, 2))
    square = c * (wide**2).mean((1, 2), keepdims=True) + (1 - c) * q_r.mean((0, 1, 2))
    expected = (wide - mean) / np.sqrt(square - mean**2 + 1e-5)
    chex.assert_trees_all_close(layer.apply(variables, x), expected, rtol=1e-4, atol=1e-4)


def test_an_example_with_padding_weighs_as_one():
    layer = normjax.ReferenceBatchNorm(use_running_average=False)
    reference, x = draw(16, 6, 3, seed=1), draw(4, 6, 3, shift=2.0)
    variables = normjax.reference_pass(layer, layer.init(jax.random.key(0), reference), reference)
    mask = (jnp.arange(6) < 2)[None, :, None]
    got = layer.apply(variables, x, mask=jnp.broadcast_to(mask, (4, 6, 1)))[:, :2]
    chex.assert_trees_all_close(got, layer.apply(variables, x[:, :2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "mixed", "alpha": 2.0}, "alpha=2.0 is out of range; use 0 to 1"),
        ({"alpha": 0.5}, "alpha=0.5 has no meaning with mode='virtual'"),
        ({"mode": "renorm", "r_max": 0.5}, "r_max=0.5 is too small; use 1 or more"),
        ({"mode": "renorm", "d_max": -1.0}, "d_max=-1.0 is too small; use 0 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        normjax.ReferenceBatchNorm(use_running_average=True, **options).init(jax.random.key(0), REFERENCE)
    with pytest.raises(ValueError, match=message):
        normjax_nnx.ReferenceBatchNorm(3, **options, rngs=nnx.Rngs(0))


def test_mixed_is_evaluated_by_the_reference_alone():
    net, variables = ready(mode="mixed", alpha=0.3)
    fixed = Net({"mode": "fixed"})
    x = draw(6, 3)
    chex.assert_trees_all_equal(net.apply(variables, x, train=False), fixed.apply(variables, x, train=False))


def test_devices_count_their_part_of_the_reference():
    # One device with one valid example must not weigh as much as one with two.
    net, together = Net(), Net({"axis_name": "batch"})
    variables = net.init(jax.random.key(0), REFERENCE)
    valid = jnp.asarray([2, 1, 2, 2, 0, 1, 2, 2])
    mask = (jnp.arange(2)[None] < valid[:, None])[..., None]
    f = jax.pmap(
        lambda x, mask: normjax.reference_pass(together, variables, x, mask=mask)["reference_stats"], axis_name="batch"
    )
    taken = f(REFERENCE.reshape(8, 2, 3), mask)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape)), taken)
    expected = normjax.reference_pass(net, variables, REFERENCE[mask.ravel()])["reference_stats"]
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], taken), expected, rtol=1e-5, atol=1e-6)


def test_groups_of_devices_share_batches_but_all_share_the_reference():
    layer = normjax.ReferenceBatchNorm(
        use_running_average=False, mode="mixed", axis_name="batch", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]]
    )
    x, params = draw(8, 2, 3), layer.init(jax.random.key(0), REFERENCE)

    def step(reference, x):
        return layer.apply(normjax.reference_pass(layer, params, reference), x)

    got = jax.pmap(step, axis_name="batch")(REFERENCE.reshape(8, 2, 3), x)
    one = layer.clone(axis_name=None, axis_index_groups=None)
    variables = normjax.reference_pass(one, params, REFERENCE)
    for half in (slice(0, 4), slice(4, 8)):
        expected = one.apply(variables, x[half].reshape(8, 3)).reshape(4, 2, 3)
        chex.assert_trees_all_close(got[half], expected, rtol=1e-5, atol=1e-5)


def test_batch_moments_tell_of_the_batch_and_not_of_the_reference():
    net, variables = ready()
    x = draw(5, 3)
    _, told = net.apply(variables, x, mutable=["batch_moments"])
    kept = normjax.functional.Moments(*told["batch_moments"]["norm0"]["moments"])
    expected = moments(x @ variables["params"]["dense0"]["kernel"], (0,))
    chex.assert_trees_all_close(kept, expected, rtol=1e-5)
    assert not net.apply(variables, x, train=False, mutable=["batch_moments"])[1]


@pytest.mark.parametrize("mode", ["mixed", "fixed", "renorm"])
def test_a_network_that_evaluates_by_the_reference_is_folded(mode):
    net, variables = ready(mode=mode)
    x = draw(6, 3)
    apply, folded = normjax.fold(net, variables, x, train=False)
    assert len(apply.folded) == 2
    chex.assert_trees_all_close(apply(folded, x), net.apply(variables, x, train=False), rtol=1e-4, atol=1e-5)


def test_an_empty_reference_is_refused():
    net = Net()
    variables = net.init(jax.random.key(0), REFERENCE)
    with pytest.raises(ValueError, match="the reference batch is empty"):
        normjax.reference_pass(net, variables, REFERENCE[:0])
    with pytest.raises(ValueError, match=r"the reference batch is empty: .* counts no valid value"):
        normjax.reference_pass(net, variables, REFERENCE, mask=jnp.zeros((16, 1), bool))


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(ValueError, match="Dense has no ReferenceBatchNorm"):
        normjax.reference_pass(nn.Dense(2), nn.Dense(2).init(jax.random.key(0), REFERENCE), REFERENCE)


def test_other_features_than_at_initialisation_are_refused():
    layer = normjax.ReferenceBatchNorm(use_running_average=False, use_scale=False, use_bias=False)
    variables = normjax.reference_pass(layer, layer.init(jax.random.key(0), REFERENCE), REFERENCE)
    with pytest.raises(ValueError, match=r"the reference has features of shape \(3,\), and the input has \(5,\)"):
        layer.apply(variables, draw(4, 5))
    with pytest.raises(ValueError, match=r"the reference has features of shape \(3,\), and the input has \(5,\)"):
        normjax.reference_pass(layer, variables, draw(4, 5))


@pytest.mark.parametrize("flows", [True, False])
def test_nnx_takes_reference_and_gradient_within_one_step(flows):
    linen, variables = ready(reference_gradient=flows)

    class Twin(nnx.Module):
        def __init__(self, rngs):
            for i, size in enumerate((3, 4)):
                setattr(self, f"dense{i}", nnx.Linear(size, 4, use_bias=False, rngs=rngs))
                norm = normjax_nnx.ReferenceBatchNorm(4, reference_gradient=flows, rngs=rngs)
                setattr(self, f"norm{i}", norm)

        def __call__(self, x):
            for i in range(2):
                x = nnx.tanh(getattr(self, f"norm{i}")(getattr(self, f"dense{i}")(x)))
            return x

    net, x = Twin(nnx.Rngs(0)), draw(5, 3)
    for i in range(2):
        getattr(net, f"dense{i}").kernel[...] = variables["params"][f"dense{i}"]["kernel"]

    @nnx.jit
    def gradient(net):
        def loss(net):
            net.set_attributes(collect_reference=True)
            net(REFERENCE)
            net.set_attributes(collect_reference=False)
            return jnp.square(net(x) - 1).sum()

        return nnx.grad(loss)(net)

    def loss(params):
        fresh = normjax.reference_pass(linen, {"params": params}, REFERENCE)
        return jnp.square(linen.apply(fresh, x) - 1).sum()

    got = nnx.to_pure_dict(gradient(net))
    chex.assert_trees_all_close(got, jax.grad(loss)(variables["params"]), rtol=1e-4, atol=1e-5)
    kept = {name: getattr(net.norm1, name)[...] for name in ("count", "mean", "var", "examples")}
    chex.assert_trees_all_close(kept, variables["reference_stats"]["norm1"], rtol=1e-4, atol=1e-5)


def test_nnx_says_how_to_take_a_reference():
    layer = normjax_nnx.ReferenceBatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"no reference statistics; take them by model.set_attributes"):
        layer(REFERENCE)
    with pytest.raises(ValueError, match="the reference batch is empty"):
        nnx.view(layer, collect_reference=True)(REFERENCE[:0])
