"""Population statistics: pooled exactly, or as Algorithm 2, for every layer with running statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalogue import LAYERS
from flax import linen as nn
from inference_cases import draw

import normjax

RUNNING = [layer for layer in LAYERS if layer.running]
every_layer = pytest.mark.parametrize("layer", RUNNING, ids=lambda layer: layer.name)


def network(layer, **fields):
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, *, train, mask=None):
            x = layer.linen(use_running_average=not train, **{**layer.options, **fields})(nn.Dense(4)(x), mask=mask)
            return nn.Dense(2)(nn.relu(x))

    return Network()


def dense_output(variables, x):
    dense = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"]["Dense_0"])
    return np.asarray(x, np.float64) @ dense["kernel"] + dense["bias"]


def expected_statistics(names, mean, covariance, epsilon=1e-5):
    var = np.diagonal(covariance)
    all_of_them = {
        "mean": mean,
        "var": var,
        "std": np.sqrt(var + epsilon),
        "covariance": np.stack([covariance[:2, :2], covariance[2:, 2:]]),
    }
    return {name: all_of_them[name] for name in names if name != "step"}


def statistics(variables):
    (stats,) = variables["batch_stats"].values()
    return {name: value for name, value in stats.items() if name != "step"}


@every_layer
def test_pooled_statistics_are_those_of_all_values_together(layer):
    # fvcore's precise BN forgets the variance of the batches' means; here batches weigh by their size.
    model = network(layer)
    batches = [draw(8, 3, shift=0.0), draw(16, 3, seed=1, shift=2.0), draw(8, 3, seed=2, shift=-1.0)]
    variables = model.init(jax.random.key(0), batches[0], train=False)
    _, precise = normjax.precise_statistics(model, variables, batches, train=True)
    y = dense_output(variables, np.concatenate(batches))
    want = expected_statistics(statistics(precise), y.mean(0), np.cov(y.T, bias=True))
    chex.assert_trees_all_close(statistics(precise), want, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(precise["params"], variables["params"])


@every_layer
def test_papers_statistics_are_means_of_the_batches_own(layer):
    # Algorithm 2: the mean of the means, m/(m-1) times the mean of the variances.
    model = network(layer)
    batches = [draw(8, 3), draw(8, 3, seed=1, shift=2.0)]
    variables = model.init(jax.random.key(0), batches[0], train=False)
    _, precise = normjax.precise_statistics(model, variables, batches, aggregation="paper", train=True)
    each = [dense_output(variables, batch) for batch in batches]
    covariance = np.mean([np.cov(y.T) for y in each], 0)
    want = expected_statistics(statistics(precise), np.mean([y.mean(0) for y in each], 0), covariance)
    chex.assert_trees_all_close(statistics(precise), want, rtol=1e-4, atol=1e-5)


@every_layer
@pytest.mark.parametrize("synced", [True, False])
def test_many_devices_give_the_statistics_of_one(layer, synced):
    # A layer that syncs and one that does not: what they take of a batch over 8 devices is the same population.
    fields = {"axis_name": "batch"} if synced else {}
    one = {"ghost_batch_size": 4} if "ghost" in layer.name else {}
    batches = [draw(32, 3), draw(32, 3, seed=1, shift=2.0)]
    masks = [jnp.arange(32)[:, None] % 8 < 5, jnp.arange(32)[:, None] % 4 < 3]
    given = [{"x": x, "mask": mask} for x, mask in zip(batches, masks, strict=True)]
    variables = network(layer, **one).init(jax.random.key(0), batches[0], train=False)
    _, expected = normjax.precise_statistics(network(layer, **one), variables, given, train=True)
    _, got = normjax.precise_statistics(
        network(layer, **one, **fields), variables, given, train=True, axis_name="batch"
    )
    chex.assert_trees_all_close(statistics(got), statistics(expected), rtol=1e-4, atol=1e-5)


def test_running_statistics_lag_where_precise_ones_do_not():
    # The use of it: after a change of the weights inference is right at once.
    layer = next(layer for layer in RUNNING if layer.name == "batch_norm")
    model, x = network(layer), draw(64, 3)
    variables = model.init(jax.random.key(0), x, train=False)
    trained, _ = model.apply(variables, x, train=True, mutable=["batch_stats"])
    apply, precise = normjax.precise_statistics(model, variables, [x[:32], x[32:]], train=True)
    chex.assert_trees_all_close(apply(precise, x, train=False), trained, rtol=1e-3, atol=1e-4)
    assert not np.allclose(model.apply(variables, x, train=False), trained, atol=0.05)


def test_flaxs_own_batch_norm_takes_part_and_shared_modules_pool():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.BatchNorm(use_running_average=False)
            return norm(x) + norm(3 * x + 1)

    x = draw(16, 2)
    variables = Shared().init(jax.random.key(0), x)
    _, precise = normjax.precise_statistics(Shared(), variables, [x])
    values = np.concatenate([x, 3 * x + 1]).astype(np.float64)
    want = {"mean": values.mean(0), "var": values.var(0)}
    chex.assert_trees_all_close(precise["batch_stats"]["BatchNorm_0"], want, rtol=1e-5)


@every_layer
def test_statistics_that_diverged_are_replaced(layer):
    # An average with no share of the old value still multiplied it by zero, and NaN times zero is NaN.
    model, x = network(layer), draw(16, 3)
    variables = model.init(jax.random.key(0), x, train=False)
    stats = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.nan) if leaf.dtype == jnp.float32 else leaf, variables["batch_stats"]
    )
    _, want = normjax.precise_statistics(model, variables, [x], train=True)
    _, got = normjax.precise_statistics(model, {**variables, "batch_stats": stats}, [x], train=True)
    chex.assert_trees_all_equal(got, want)


@pytest.mark.parametrize("norm", [nn.BatchNorm, normjax.BatchNorm])
def test_groups_of_devices_together_are_all_devices(norm):
    # Of layers that share among some devices, the first group's statistics alone were taken.
    x = draw(16, 3, shift=jnp.arange(16.0)[:, None])
    model = norm(use_running_average=False, axis_name="batch", axis_index_groups=[[0, 1, 2, 3], [4, 5, 6, 7]])
    alone = norm(use_running_average=False)
    variables = alone.init(jax.random.key(0), x)
    for aggregation in ("pooled", "paper"):
        _, want = normjax.precise_statistics(alone, variables, [x], aggregation=aggregation)
        _, got = normjax.precise_statistics(model, variables, [x], axis_name="batch", aggregation=aggregation)
        chex.assert_trees_all_close(got["batch_stats"], want["batch_stats"], rtol=1e-5)


class Scanned(nn.Module):
    norm: type
    collections: tuple = ("batch_stats",)

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            norm: type

            @nn.compact
            def __call__(self, x, _):
                return self.norm(use_running_average=False, name="norm")(2 * x), None

        axes = {"params": 0, **dict.fromkeys(self.collections, 0)}
        scanned = nn.scan(Block, variable_axes=axes, split_rngs={"params": True}, length=3)
        x, _ = scanned(self.norm, name="blocks")(x, None)
        return nn.BatchNorm(use_running_average=False, name="last")(x + 1)


@pytest.mark.parametrize("norm", [nn.BatchNorm, normjax.BatchNorm])
def test_a_layer_whose_moments_do_not_come_out_is_named(norm):
    # Scanned layers kept their old statistics without a word.
    x = draw(16, 3)
    variables = Scanned(norm).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"layer blocks/norm is inside a lifted .* name that collection"):
        normjax.precise_statistics(Scanned(norm), variables, [x])


def test_scanned_layers_take_part_where_their_moments_come_out():
    x = draw(16, 3)
    model = Scanned(normjax.BatchNorm, ("batch_stats", "batch_moments"))
    _, precise = normjax.precise_statistics(model, model.init(jax.random.key(0), x), [x])
    want, values = [], np.asarray(x, np.float64)
    for _ in range(3):
        values = 2 * values
        want.append((values.mean(0), values.var(0)))
        values = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    means, variances = map(np.stack, zip(*want, strict=True))
    got = precise["batch_stats"]["blocks"]["norm"]
    chex.assert_trees_all_close(dict(got), {"mean": means, "var": variances}, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {"train": True}, "batches is empty"),
        ([1], {"train": False}, "no layer took statistics"),
        ([1], {"train": True, "aggregation": "mean"}, "aggregation='mean' is not known"),
        ([1], {"train": True, "axis_name": "batch"}, "does not divide among 8 devices"),
        ([1], {"train": True, "devices": ()}, "devices without axis_name"),
    ],
)
def test_mistakes_are_told(batches, options, message):
    model = network(RUNNING[0])
    x = draw(12, 3)
    variables = model.init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match=message):
        normjax.precise_statistics(model, variables, [x for _ in batches], **options)
