"""BatchNorm where flax.linen.BatchNorm goes wrong: uneven devices, padding of NaN, empty batches, far from zero."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from oracles import numpy_batch_norm, numpy_batch_norm_gradients, numpy_moments

import normjax

WAYS = ("pmap", "shard_map", "shard_map with check_vma")


def draw(*shape, seed=0, shift=1.0):
    return (np.random.default_rng(seed).normal(size=shape) + shift).astype(np.float32)


def some_variables():
    params = {"scale": jnp.asarray(draw(3, seed=8)), "bias": jnp.asarray(draw(3, seed=9))}
    return {"params": params, "batch_stats": {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 7.0)}}


def step(layer, variables, x, mask, upstream):
    """Output, new statistics, and gradients for parameters and input."""

    def loss(params, x):
        given = {**variables, "params": params}
        y, updates = layer.apply(given, x, use_running_average=False, mask=mask, mutable=["batch_stats"])
        return (y * upstream).sum(), (y, updates["batch_stats"])

    both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (y, stats)), (dparams, dx) = both(variables["params"], x)
    return y, stats, dparams, dx


def on_devices(way, layer, variables, x, mask, upstream):
    """The step with one shard a device and the variables shared; statistics and parameter gradients once."""
    split, shared = P("batch"), P()
    if way == "pmap":
        f = jax.pmap(lambda *arrays: step(layer, *arrays), axis_name="batch", in_axes=(None, 0, 0, 0))
        y, stats, dparams, dx = f(variables, x, mask, upstream)
        chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf, i=i: leaf[i], stats) for i in (0, -1)))
        return y, jax.tree.map(lambda leaf: leaf[0], stats), jax.tree.map(lambda leaf: leaf.sum(0), dparams), dx

    check = way == "shard_map with check_vma"

    def block(variables, x, mask, upstream):
        y, stats, dparams, dx = step(layer, variables, x[0], mask[0], upstream[0])
        # With check_vma JAX sums the gradients of what is shared.
        return y[None], stats, dparams if check else jax.lax.psum(dparams, "batch"), dx[None]

    mesh = jax.make_mesh((len(x),), ("batch",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (shared, split, split, split), "out_specs": (split, shared, shared, split)}
    return jax.jit(jax.shard_map(block, mesh=mesh, check_vma=check, **specs))(variables, x, mask, upstream)


def expected_step(variables, x, mask, upstream, momentum):
    """The same of all data on one device, in float64; the last axis holds the features."""
    axes = tuple(range(x.ndim - 1))
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    count, mean, m2 = numpy_moments(x, axes, mask)
    var = m2 / np.maximum(count, 1)
    old = variables["batch_stats"]
    stats = {
        "mean": np.where(count > 0, momentum * old["mean"] + (1 - momentum) * mean, old["mean"]),
        "var": np.where(count > 0, momentum * old["var"] + (1 - momentum) * var, old["var"]),
    }
    dx, dscale, dbias = numpy_batch_norm_gradients(x, upstream, scale, axes=axes, mask=mask)
    return numpy_batch_norm(x, scale, bias, axes=axes, mask=mask), stats, {"scale": dscale, "bias": dbias}, dx


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("share", [(5, 1), (4, 0, 2, 5)], ids=["five and one", "one has none"])
def test_uneven_devices_train_as_one_device_would(share, way):
    # Fault 1, google/flax#2417: outputs, running statistics and gradients of x, scale and bias.
    x = draw(len(share), 5, 3) + 4 * np.arange(len(share), dtype=np.float32)[:, None, None]
    mask = (np.arange(5) < np.array(share)[:, None])[..., None]
    upstream, variables = draw(len(share), 5, 3, seed=1), some_variables()
    layer = normjax.BatchNorm(axis_name="batch", momentum=0.8)
    actual = on_devices(way, layer, variables, *map(jnp.asarray, (x, mask, upstream)))
    chex.assert_trees_all_close(actual, expected_step(variables, x, mask, upstream, 0.8), rtol=1e-4, atol=1e-3)


def test_groups_of_devices_keep_statistics_of_their_own():
    # axis_index_groups reaches the reduction: four devices, two groups, two running means.
    x, upstream = draw(4, 5, 3) + 4 * np.arange(4, dtype=np.float32)[:, None, None], draw(4, 5, 3, seed=1)
    layer = normjax.BatchNorm(axis_name="batch", axis_index_groups=[[0, 3], [1, 2]], momentum=0.8)
    variables = some_variables()
    f = jax.pmap(lambda x, g: step(layer, variables, x, None, g), axis_name="batch")
    y, stats, dparams, dx = f(jnp.asarray(x), jnp.asarray(upstream))
    for group in (np.array([0, 3]), np.array([1, 2])):
        expected = expected_step(variables, x[group], np.ones((2, 5, 1), bool), upstream[group], 0.8)
        first = jax.tree.map(lambda leaf, i=group[0]: leaf[i], stats)
        total = jax.tree.map(lambda leaf, g=group: leaf[g].sum(0), dparams)
        chex.assert_trees_all_close((y[group], first, total, dx[group]), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf])
def test_padding_of_garbage_changes_nothing(garbage):
    # Fault 2: the step is that of the batch without the padding, gradients included.
    x, upstream, variables = draw(6, 4, 3), draw(6, 4, 3, seed=1), some_variables()
    mask = np.arange(4) < np.array([4, 1, 3, 2, 4, 1])[:, None]
    padded = np.where(mask[..., None], x, np.float32(garbage))
    upstream[~mask] = 0
    given = [jnp.asarray(array) for array in (padded, mask[..., None], upstream)]
    y, stats, dparams, dx = step(normjax.BatchNorm(momentum=0.8), variables, *given)
    expected = expected_step(variables, x[mask], None, upstream[mask], 0.8)
    chex.assert_trees_all_close((y[mask], stats, dparams, dx[mask]), expected, rtol=1e-4, atol=1e-4)
    chex.assert_tree_all_finite((y, dx))


@pytest.mark.parametrize("way", ["one device", "pmap"])
def test_a_batch_in_which_nothing_counts_leaves_the_statistics_alone(way):
    # Fault 2: Flax writes NaN into the running statistics, and the network is lost.
    x, upstream, variables = np.full((2, 5, 3), np.nan, np.float32), draw(2, 5, 3), some_variables()
    mask, layer = np.zeros((2, 5, 1), bool), normjax.BatchNorm(axis_name=None if way == "one device" else "batch")
    given = [jnp.asarray(array) for array in (x, mask, upstream)]
    actual = step(layer, variables, *given) if way == "one device" else on_devices(way, layer, variables, *given)
    chex.assert_trees_all_equal(actual[1], variables["batch_stats"])
    chex.assert_trees_all_close(actual, expected_step(variables, x, mask, upstream, 0.99), rtol=1e-4, atol=1e-4)


def test_a_batch_of_no_rows_leaves_the_statistics_alone():
    # The last shard of an epoch may be empty; Flax gives NaN.
    x, variables = jnp.zeros((0, 3)), some_variables()
    y, stats, dparams, dx = step(normjax.BatchNorm(), variables, x, None, x)
    chex.assert_trees_all_equal(stats, variables["batch_stats"])
    chex.assert_trees_all_equal((y, dx, dparams), (x, x, {"scale": jnp.zeros(3), "bias": jnp.zeros(3)}))


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("devices", [1, 8])
def test_data_far_from_zero_keep_their_variance(devices, fast):
    # Fault 3: for N(1e4, 1) Flax stores a running variance of 0 and puts out values near 0 or 316 times too large.
    x = draw(devices, 512, 3, shift=1e4)
    layer = normjax.BatchNorm(axis_name="batch", momentum=0.0, use_fast_variance=fast)
    variables = some_variables()

    def forward(x):
        y, updates = layer.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        return y, updates["batch_stats"]["var"]

    y, var = jax.pmap(forward, axis_name="batch")(jnp.asarray(x))
    expected = x.astype(np.float64).var((0, 1))
    chex.assert_trees_all_close(var, np.stack([expected] * devices), rtol=0.01)
    expected = numpy_batch_norm(x, *variables["params"].values(), axes=(0, 1))
    chex.assert_trees_all_close(y, expected, rtol=0.01, atol=0.01)


def test_two_passes_are_made_where_asked_for():
    # An outlier in front costs the one-pass form three digits here; who asks for two passes gets all of them.
    x = draw(4096, 3)
    x[0] = 1e4
    layer = normjax.BatchNorm(momentum=0.0, use_fast_variance=False)
    _, updates = layer.apply(some_variables(), jnp.asarray(x), use_running_average=False, mutable=["batch_stats"])
    chex.assert_trees_all_close(updates["batch_stats"]["var"], x.astype(np.float64).var(0), rtol=1e-6)


def test_constant_input_gives_beta_and_a_variance_of_zero():
    # A dead ReLU channel: no NaN in the output, the state or the gradients.
    x, upstream, variables = np.full((6, 3), 3.3, np.float32), draw(6, 3, seed=1), some_variables()
    actual = step(normjax.BatchNorm(momentum=0.8), variables, jnp.asarray(x), None, jnp.asarray(upstream))
    chex.assert_trees_all_close(actual, expected_step(variables, x, None, upstream, 0.8), rtol=1e-4, atol=1e-3)
