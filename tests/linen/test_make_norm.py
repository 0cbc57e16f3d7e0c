"""Norms by name: one calling convention, Flax's results, and errors that list what is allowed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import normjax
from normjax.linen.factory import has_option

NAMES = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
FLAX = {
    "group_norm": (nn.GroupNorm, {"num_groups": 2, "epsilon": 0.1}),
    "instance_norm": (nn.InstanceNorm, {"epsilon": 0.1}),
    "layer_norm": (nn.LayerNorm, {"epsilon": 0.1, "use_bias": False}),
    "rms_norm": (nn.RMSNorm, {"epsilon": 0.1}),
}


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) + 1, jnp.float32)


def flax_allowed(f, *args, **kwargs):
    with jax.numpy_rank_promotion("allow"):
        return f(*args, **kwargs)


@pytest.mark.parametrize("name", FLAX)
def test_norms_of_single_examples_are_those_of_flax(name):
    # Wrapped for the calling convention only: same variables, values and gradients, options reaching the layer.
    cls, options = FLAX[name]
    x = draw(3, 4, 4, 6)
    ours = normjax.make_norm(name, **options)(use_running_average=False, axis_name="absent", name="n")
    theirs = cls(**options)
    variables = flax_allowed(jax.jit(theirs.init), jax.random.key(0), x)
    chex.assert_trees_all_equal(flax_allowed(jax.jit(ours.init), jax.random.key(0), x), variables)
    variables = jax.tree.map(lambda leaf: draw(*leaf.shape, seed=1), variables)

    def step(layer, **call):
        def run(variables, x):
            y, pull = jax.vjp(lambda *given: layer.apply(*given, **call), variables, x)
            return y, pull(jnp.cos(x))

        return flax_allowed(jax.jit(run), variables, x)

    mask = jnp.arange(3)[:, None, None, None] < 2
    chex.assert_trees_all_close(step(ours, mask=mask), step(theirs), rtol=1e-6, atol=1e-6)


def test_batch_norm_by_name_is_batch_norm():
    # Options of make_norm and fields of the call meet in one layer.
    x, mask = draw(6, 3), jnp.arange(6)[:, None] < 4
    by_name = normjax.make_norm("batch_norm", momentum=0.5, unbiased_running_var=True)(use_running_average=False)
    direct = normjax.BatchNorm(use_running_average=False, momentum=0.5, unbiased_running_var=True)
    variables = by_name.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(
        by_name.apply(variables, x, mask=mask, mutable=["batch_stats"]),
        direct.apply(variables, x, mask=mask, mutable=["batch_stats"]),
    )


def test_fields_of_the_call_win_over_options():
    # A model's zero-initialised last norm must get its initializer whatever the config says.
    norm = normjax.make_norm("batch_norm", momentum=0.5, scale_init=nn.initializers.ones)
    layer = norm(use_running_average=True, scale_init=nn.initializers.zeros)
    x = draw(6, 3)
    variables = layer.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(variables["params"]["scale"], jnp.zeros(3))
    assert layer.momentum == 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_model_takes_any_norm_and_none_lets_padding_through(name):
    # One model, five norms: each takes the mode and the mask, and padding does not change the examples that count.
    norm = normjax.make_norm(name, **({"num_groups": 2} if name == "group_norm" else {}))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *, train, mask=None):
            return norm(use_running_average=not train)(x, mask=mask)

    x, mask = draw(4, 3, 3, 4), jnp.arange(4)[:, None, None, None] < 3
    variables = flax_allowed(jax.jit(lambda key: Model().init(key, x, train=True)), jax.random.key(0))
    f = jax.jit(lambda x: Model().apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])[0])
    y, y_padded = flax_allowed(f, x), flax_allowed(f, jnp.where(mask, x, 1e3))
    chex.assert_trees_all_equal(y_padded[:3], y[:3])
    # The last example is seen, so the case is not empty.
    assert not np.allclose(y_padded[3], y[3])


@pytest.mark.parametrize("name", NAMES)
def test_options_of_a_norm_can_be_asked_for(name):
    # A config that sets a momentum for whatever norm is chosen; what has_option denies, make_norm refuses.
    for option in ("momentum", "epsilon", "group_size", "parent"):
        try:
            normjax.make_norm(name, **{option: 1})
        except ValueError:
            assert not has_option(name, option)
        else:
            assert has_option(name, option)
    assert not has_option("unknown", "epsilon")


@pytest.mark.parametrize("name", ["batchnorm", "BatchNorm", "", "None"])
def test_an_unknown_name_is_answered_with_the_known_ones(name):
    # The message is what a user of a config sees.
    with pytest.raises(ValueError, match="is not known; use one of") as error:
        normjax.make_norm(name)
    assert repr(name) in str(error.value)
    assert all(known in str(error.value) for known in NAMES)


@pytest.mark.parametrize(
    ("name", "option", "allowed"),
    [
        ("batch_norm", "decay", ("momentum", "epsilon", "unbiased_running_var")),
        ("group_norm", "momentum", ("num_groups", "group_size")),
        ("layer_norm", "parent", ("reduction_axes", "use_bias")),
    ],
)
def test_an_unknown_option_is_answered_with_the_known_ones(name, option, allowed):
    # At the time the config is read, not at the first step.
    with pytest.raises(ValueError, match=f"norm '{name}' has no option '{option}'; use one of") as error:
        normjax.make_norm(name, **{option: 0.9})
    assert all(field in str(error.value) for field in allowed)
