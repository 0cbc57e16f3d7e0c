"""BatchNorm in the place of flax.linen.BatchNorm: same fields, variables, outputs, statistics and gradients."""

import dataclasses

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import normjax

# Fields, shape of the input.
CASES = {
    "dense": ({}, (8, 3)),
    "conv": ({}, (3, 4, 4, 5)),
    "channels first": ({"axis": 1}, (3, 4, 5)),
    "two feature axes": ({"axis": (-1, 1)}, (4, 2, 3, 5)),
    "video": ({}, (2, 2, 3, 3, 4)),
    "momentum": ({"momentum": 0.3}, (8, 3)),
    "epsilon": ({"epsilon": 0.5}, (8, 3)),
    "two passes": ({"use_fast_variance": False}, (8, 3)),
    "no bias": ({"use_bias": False}, (8, 3)),
    "no scale": ({"use_scale": False}, (8, 3)),
    "neither": ({"use_bias": False, "use_scale": False}, (8, 3)),
    "initializers": ({"bias_init": nn.initializers.normal(), "scale_init": nn.initializers.normal()}, (8, 3)),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 0.5, jnp.float32)


def flax_allowed(f, *args, **kwargs):
    """Flax itself relies on rank promotion, which the tests of normjax forbid."""
    with jax.numpy_rank_promotion("allow"):
        return f(*args, **kwargs)


def variables_of(layer, x):
    """As after some training: parameters and statistics that are neither 0 nor 1."""
    leaves, tree = jax.tree.flatten(jax.eval_shape(layer.init, jax.random.key(0), x))
    return jax.tree.unflatten(tree, [1 + jnp.abs(draw(*leaf.shape, seed=i)) for i, leaf in enumerate(leaves)])


def train(layer, variables, x, upstream, **call):
    """Output, new statistics, gradients of parameters and input."""

    def loss(params, x):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        y, updates = layer.apply(given, x, mutable=["batch_stats"], **call)
        return (y * upstream).sum(), (y, updates)

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (y, updates)), grads = step(variables.get("params", {}), x)
    return y, updates, grads


def test_fields_and_defaults_are_those_of_flax():
    # One call that Flax takes and this layer does not, or takes in another order, and it is no drop-in.
    ours, theirs = ({f.name: f.default for f in dataclasses.fields(cls)} for cls in (normjax.BatchNorm, nn.BatchNorm))
    assert ours.pop("unbiased_running_var") is False
    assert ours == theirs
    order = [name for name in ours if name not in ("parent", "name")]
    assert order == [name for name in theirs if name not in ("parent", "name")]


@pytest.mark.parametrize("case", CASES)
def test_fresh_variables_are_those_of_flax(case):
    # Same names, shapes, types and random numbers: checkpoints of one load into the other.
    fields, shape = CASES[case]
    ours, theirs = (cls(use_running_average=False, **fields) for cls in (normjax.BatchNorm, nn.BatchNorm))
    expected = flax_allowed(jax.jit(theirs.init), jax.random.key(1), draw(*shape))
    actual = jax.jit(ours.init)(jax.random.key(1), draw(*shape))
    chex.assert_trees_all_equal_dtypes(actual, expected)
    chex.assert_trees_all_equal(actual, expected)


@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_flax(case):
    # Where Flax is right, both agree in output, statistics and every gradient.
    fields, shape = CASES[case]
    ours, theirs = (cls(use_running_average=False, **fields) for cls in (normjax.BatchNorm, nn.BatchNorm))
    x, upstream = draw(*shape), draw(*shape, seed=1)
    variables = variables_of(ours, x)
    expected = flax_allowed(train, theirs, variables, x, upstream)
    chex.assert_trees_all_close(train(ours, variables, x, upstream), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_inference_is_that_of_flax(case):
    # By the running statistics alone, and with nothing mutable.
    fields, shape = CASES[case]
    ours, theirs = (cls(use_running_average=True, **fields) for cls in (normjax.BatchNorm, nn.BatchNorm))
    x = draw(*shape)
    variables = variables_of(ours, x)
    expected = flax_allowed(jax.jit(theirs.apply), variables, x)
    chex.assert_trees_all_close(jax.jit(ours.apply)(variables, x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mask_shape", "fast"),
    [((4, 1, 1, 1), True), ((4, 3, 3, 1), True), ((4, 3, 3, 1), False), ((4, 3, 3, 2), True), ((3, 1), True)],
)
def test_a_mask_means_what_it_means_to_flax(mask_shape, fast):
    # On one device with something left to count Flax is right, at masked-out finite positions, too.
    ours, theirs = (cls(use_running_average=False, use_fast_variance=fast) for cls in (normjax.BatchNorm, nn.BatchNorm))
    x, upstream = draw(4, 3, 3, 2), draw(4, 3, 3, 2, seed=1)
    mask = jnp.asarray(np.random.default_rng(0).random(mask_shape) < 0.5)
    variables = variables_of(ours, x)
    expected = flax_allowed(train, theirs, variables, x, upstream, mask=mask)
    chex.assert_trees_all_close(train(ours, variables, x, upstream, mask=mask), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [np.asarray, lambda mask: jnp.asarray(mask, jnp.float32), jnp.int32])
def test_masks_may_be_numbers_or_come_from_the_host(kind):
    # Flax converts "a binary array" itself; the data pipeline hands out NumPy and often weights of 0.0 and 1.0.
    x, mask = draw(6, 3), (np.arange(6) < 4)[:, None]
    layer = normjax.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), x)
    expected = layer.apply(variables, x, mask=jnp.asarray(mask), mutable=["batch_stats"])
    chex.assert_trees_all_equal(layer.apply(variables, x, mask=kind(mask), mutable=["batch_stats"]), expected)


@pytest.mark.parametrize("train", [False, True])
def test_input_and_variables_may_come_from_the_host(train):
    # A checkpoint restores NumPy arrays, and an evaluation script hands in a NumPy image.
    x, layer = draw(6, 3), normjax.BatchNorm(use_running_average=not train)
    variables = variables_of(layer, x)
    expected = layer.apply(variables, x, mutable=["batch_stats"])
    on_host = jax.tree.map(np.asarray, variables)
    chex.assert_trees_all_close(layer.apply(on_host, np.asarray(x), mutable=["batch_stats"]), expected, rtol=1e-6)


@pytest.mark.parametrize("cls", [normjax.BatchNorm, nn.BatchNorm])
@pytest.mark.parametrize("average", [False, True])
def test_mode_is_given_by_field_or_by_call(cls, average):
    # Not both and not neither, as in Flax: a default would train or evaluate in the wrong mode without a word.
    x = draw(6, 3)
    variables = variables_of(normjax.BatchNorm(use_running_average=True), x)
    apply = {"mutable": ["batch_stats"]}
    by_field = flax_allowed(cls(use_running_average=average).apply, variables, x, **apply)
    by_call = flax_allowed(cls().apply, variables, x, use_running_average=average, **apply)
    chex.assert_trees_all_equal(by_call, by_field)
    with pytest.raises(ValueError, match="use_running_average"):
        cls().apply(variables, x, **apply)
    with pytest.raises(ValueError, match="use_running_average"):
        cls(use_running_average=average).apply(variables, x, use_running_average=average, **apply)


@pytest.mark.parametrize("cls", [normjax.BatchNorm, nn.BatchNorm])
def test_training_with_frozen_statistics_is_an_error(cls):
    # A forgotten mutable=["batch_stats"] must not train with statistics that never move.
    x = draw(6, 3)
    variables = variables_of(normjax.BatchNorm(use_running_average=True), x)
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        flax_allowed(cls(use_running_average=False).apply, variables, x)


@pytest.mark.parametrize("options", [{}, {"axis_name": "absent"}, {"axis_name": "absent", "axis_index_groups": [[0]]}])
def test_init_takes_no_notice_of_its_input(options):
    # Statistics start at 0 and 1 whatever is fed, and the axis shared in training need not exist yet.
    layer = normjax.BatchNorm(use_running_average=False, **options)
    y, variables = layer.init_with_output(jax.random.key(0), draw(6, 3) * 9)
    chex.assert_trees_all_equal(variables["batch_stats"], {"mean": jnp.zeros(3), "var": jnp.ones(3)})
    theirs = nn.BatchNorm(use_running_average=False, **options)
    expected, _ = flax_allowed(theirs.init_with_output, jax.random.key(0), draw(6, 3) * 9)
    chex.assert_trees_all_close(y, expected, rtol=1e-4, atol=1e-5)
