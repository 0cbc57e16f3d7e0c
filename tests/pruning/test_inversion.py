"""Pictures that neurons see, and how alike they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from normjax.pruning import feature_inversion, redundancy, trace
from normjax.pruning.activations import reader


class Net(nn.Module):
    """Two convolutions and a dense layer behind a flattening."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), name="first")(x))
        x = nn.relu(nn.Conv(5, (3, 3), strides=2, name="second")(x))
        return nn.Dense(3)(x.reshape(len(x), -1))


IMAGE = np.random.default_rng(0).normal(size=(8, 8, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    model = Net()
    variables = model.init(jax.random.key(0), IMAGE[None])
    # The third neuron of the second layer is a copy of the first.
    kernel = variables["params"]["second"]["kernel"]
    variables["params"]["second"]["kernel"] = kernel.at[..., 2].set(kernel[..., 0])
    return model, variables, trace(model, variables, IMAGE[None])


def test_activations_are_those_of_the_layer(net):
    model, variables, neurons = net
    x = jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 2)), jnp.float32)
    _, state = model.apply(variables, x, capture_intermediates=True)
    for name in ("first", "second"):
        expected = nn.relu(state["intermediates"][name]["__call__"][0])
        found = reader(model, variables, neurons, name, x)(variables, x)
        expected = jnp.moveaxis(expected, -1, 1).reshape(*found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_picture_makes_its_neuron_do_what_it_did(net):
    model, variables, neurons = net
    weights = {"norm_weight": 1e-6, "variation_weight": 1e-6}
    pictures = feature_inversion(model, variables, neurons, "second", IMAGE, steps=200, **weights)
    start = feature_inversion(model, variables, neurons, "second", IMAGE, steps=1, learning_rate=1e-9, **weights)
    of = reader(model, variables, neurons, "second", pictures)
    wanted = of(variables, jnp.broadcast_to(IMAGE, pictures.shape))[0]
    numbers = np.arange(5)

    def error(x):
        return np.asarray(((of(variables, x)[numbers, numbers] - wanted) ** 2).sum(1) / (wanted**2).sum(1))

    assert (error(start) > 0.3).all()
    # Where relu is silent from the start nothing pulls, so one may end in a local minimum.
    assert np.median(error(pictures)) < 0.01
    assert (error(pictures) < 0.3 * error(start)).all()


def test_priors_make_pictures_smoother(net):
    model, variables, neurons = net
    rough, smooth = (
        feature_inversion(model, variables, neurons, "first", IMAGE, steps=60, variation_weight=weight)
        for weight in (0.0, 3.0)
    )
    assert np.abs(np.diff(smooth, axis=1)).mean() < 0.7 * np.abs(np.diff(rough, axis=1)).mean()


def test_copies_are_wholly_redundant(net):
    model, variables, neurons = net
    alike = redundancy(feature_inversion(model, variables, neurons, "second", IMAGE, steps=60))
    assert alike[0, 2] == pytest.approx(1, abs=1e-5)
    others = alike[~np.eye(5, dtype=bool)]
    assert np.sort(others)[:-2].max() < 0.99
    np.testing.assert_allclose(alike, alike.T, atol=1e-12)


def test_constant_pictures_are_like_none():
    np.testing.assert_array_equal(redundancy([[1.0, 1.0], [0.0, 2.0], [3.0, 3.0]]), np.eye(3))


def test_bad_input_is_named(net):
    model, variables, neurons = net
    with pytest.raises(ValueError, match="group='third' is no group of neurons of this network; use first, second"):
        feature_inversion(model, variables, neurons, "third", IMAGE)
    with pytest.raises(ValueError, match=r"steps=0: use 1 or more\."):
        feature_inversion(model, variables, neurons, "first", IMAGE, steps=0)
