"""The collection `batch_moments`: moments of several calls pooled, on request, before the running statistics move."""

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from oracles import numpy_batch_norm, numpy_moments

import normjax
from normjax.functional import Moments

BOTH = ["batch_stats", "batch_moments"]


def draw(*shape, seed=0, shift=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + shift, jnp.float32)


class Head(nn.Module):
    """A layer and its norm, of another width."""

    @nn.compact
    def __call__(self, x):
        return layer()(nn.Dense(2)(x))


class TwoNorms(nn.Module):
    """One norm in the model, one in a sub-module."""

    @nn.compact
    def __call__(self, x):
        return Head()(layer()(x))


def layer(**fields):
    return normjax.BatchNorm(use_running_average=False, momentum=0.75, **fields)


def some_variables():
    return {
        "params": {"scale": draw(3, seed=8), "bias": draw(3, seed=9)},
        "batch_stats": {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 7.0)},
    }


def pooled(updates):
    return tuple(updates["batch_moments"]["moments"])


@pytest.mark.parametrize("mutable", [["params", *BOTH], True, nn.DenyList("intermediates")])
def test_init_makes_no_moments(mutable):
    # The input of init is often zeros or one example; pooled in, it would count as data.
    variables = layer().init(jax.random.key(0), draw(4, 3), mutable=mutable)
    assert "batch_moments" not in variables


@pytest.mark.parametrize("mutable", [True, nn.DenyList("intermediates"), "batch_stats", ["batch_stats"]])
def test_only_a_caller_who_names_them_gets_moments(mutable):
    # mutable=True names nothing: a caller who never heard of the collection must find Flax's output.
    x, variables = draw(4, 3), some_variables()
    _, updates = layer().apply(variables, x, mutable=mutable)
    assert "batch_moments" not in updates
    expected = 0.75 * 5 + 0.25 * np.asarray(x, np.float64).mean(0)
    chex.assert_trees_all_close(updates["batch_stats"]["mean"], expected, rtol=1e-5)


@pytest.mark.parametrize("mutable", ["batch_moments", ["batch_moments"], ("batch_moments",), {"batch_moments"}])
@pytest.mark.parametrize("masked", [False, True])
def test_named_alone_they_leave_the_running_statistics_untouched(masked, mutable):
    # Precise statistics and plots look at a model without moving it; elsewhere frozen batch_stats are an error.
    x, variables = draw(4, 3), some_variables()
    mask = jnp.arange(4)[:, None] < 3 if masked else None
    y, updates = layer().apply(variables, x, mask=mask, mutable=mutable)
    assert set(updates) == {"batch_moments"}
    chex.assert_trees_all_close(pooled(updates), tuple(numpy_moments(x, (0,), mask)), rtol=1e-5)
    expected = numpy_batch_norm(x, *variables["params"].values(), axes=(0,), mask=mask)
    chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-4)


def test_moments_of_several_calls_merge_when_passed_back():
    # Fault 8, gradient accumulation: three micro-batches of different sizes, each normalised by itself.
    batches, variables = [draw(rows, 3, seed=rows, shift=rows) for rows in (4, 1, 6)], some_variables()
    for k, x in enumerate(batches, start=1):
        y, updates = layer().apply(variables, x, mutable=["batch_moments"])
        variables = {**variables, **updates}
        expected = numpy_moments(np.concatenate(batches[:k]), (0,))
        chex.assert_trees_all_close(pooled(updates), tuple(expected), rtol=1e-5, atol=1e-6)
        expected = numpy_batch_norm(x, *variables["params"].values(), axes=(0,))
        chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("unbiased", [False, True])
def test_both_named_move_the_running_statistics_once_by_all_calls(unbiased):
    # One step of the average from the union, as the whole batch would have made, not one from each micro-batch.
    batches, variables = [draw(rows, 3, seed=rows, shift=rows) for rows in (4, 2, 6)], some_variables()
    for x in batches[:-1]:
        variables |= layer(unbiased_running_var=unbiased).apply(variables, x, mutable=["batch_moments"])[1]
    _, updates = layer(unbiased_running_var=unbiased).apply(variables, batches[-1], mutable=BOTH)
    together = np.concatenate(batches).astype(np.float64)
    chex.assert_trees_all_close(pooled(updates), tuple(numpy_moments(together, (0,))), rtol=1e-5)
    expected = {
        "mean": 0.75 * 5 + 0.25 * together.mean(0),
        "var": 0.75 * 7 + 0.25 * together.var(0, ddof=int(unbiased)),
    }
    chex.assert_trees_all_close(updates["batch_stats"], expected, rtol=1e-5)


def test_empty_micro_batches_take_no_part():
    # A micro-batch of padding alone has count 0; alone it moves nothing, among others it weighs nothing.
    x, variables, nothing = draw(4, 3), some_variables(), jnp.zeros((4, 1), bool)
    _, updates = layer().apply(variables, jnp.full((4, 3), jnp.nan), mask=nothing, mutable=BOTH)
    chex.assert_trees_all_equal(updates["batch_stats"], variables["batch_stats"])
    _, updates = layer().apply({**variables, **updates}, x, mutable=BOTH)
    chex.assert_trees_all_close(pooled(updates), tuple(numpy_moments(x, (0,))), rtol=1e-5)


def test_inference_adds_no_moments():
    # An evaluation in the middle of an accumulation must not put its images into the statistics.
    x, variables = draw(4, 3), some_variables()
    variables |= layer().apply(variables, x, mutable=["batch_moments"])[1]
    evaluating = normjax.BatchNorm(use_running_average=True)
    _, updates = evaluating.apply(variables, draw(9, 3, seed=1), mutable=BOTH)
    chex.assert_trees_all_equal(updates, {name: variables[name] for name in BOTH})


@pytest.mark.parametrize("mutable", [[], False, ["intermediates"]])
def test_moments_passed_in_do_not_excuse_frozen_statistics(mutable):
    # The collection among the inputs is not a request; training without mutable statistics stays an error.
    x, variables = draw(4, 3), some_variables()
    variables |= layer().apply(variables, x, mutable=["batch_moments"])[1]
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        layer().apply(variables, x, mutable=mutable)


def test_every_layer_of_a_model_pools_its_own():
    # Same paths as in batch_stats, so that a training loop can zip the two.
    model, batches = TwoNorms(), [draw(4, 3), draw(5, 3, seed=1, shift=3.0)]
    start = model.init(jax.random.key(0), batches[0])
    inner, collected = [], {}
    for x in batches:
        given, wanted = {**start, **collected}, ["batch_moments", "intermediates"]
        _, collected = model.apply(given, x, mutable=wanted, capture_intermediates=True)
        inner.append(collected.pop("intermediates")["Head_0"]["Dense_0"]["__call__"][0])
    outer, inner = (Moments(*numpy_moments(np.concatenate(parts), (0,))) for parts in (batches, inner))
    expected = {"BatchNorm_0": {"moments": outer}, "Head_0": {"BatchNorm_0": {"moments": inner}}}
    chex.assert_trees_all_close(collected["batch_moments"], expected, rtol=1e-4, atol=1e-5)


def test_a_scan_over_micro_batches_carries_the_moments():
    # The carry keeps its structure and types from the second micro-batch on, for half-precision input, too.
    batches, variables = draw(5, 4, 3).astype(jnp.bfloat16), some_variables()
    _, first = layer().apply(variables, batches[0], mutable=["batch_moments"])

    def accumulate(collected, x):
        return layer().apply({**variables, **collected}, x, mutable=["batch_moments"])[::-1]

    collected, _ = jax.lax.scan(accumulate, first, batches[1:])
    chex.assert_trees_all_close(pooled(collected), tuple(numpy_moments(batches, (0, 1))), rtol=1e-5)


def test_moments_are_those_of_all_devices():
    # Pooled over devices first and calls second; equal on every device, so any replica may be kept.
    x, variables = draw(2, 4, 5, 3), some_variables()
    mask = np.random.default_rng(0).random((2, 4, 5, 1)) < 0.5

    def two_calls(x, mask):
        collected = {}
        for k in range(2):
            given = {**variables, **collected}
            _, collected = layer(axis_name="batch").apply(given, x[k], mask=mask[k], mutable=["batch_moments"])
        return pooled(collected)

    result = jax.pmap(two_calls, axis_name="batch", in_axes=1)(x, jnp.asarray(mask))
    expected = [np.stack([part] * 4) for part in numpy_moments(x, (0, 1, 2), mask)]
    chex.assert_trees_all_close(result, tuple(expected), rtol=1e-5)
