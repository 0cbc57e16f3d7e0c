"""What TPUs compute in place of the program for CPU and GPU is the same normalization, in both of its forms.

The products along lanes are plain JAX and run here as they would there; the kernels are interpreted.
"""

import importlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from normjax.functional import decorrelated_layer_norm, lanes
from normjax.functional.decorrelated_layer_norm_kernel import (
    Whitening,
    normalize_samples,
    normalize_samples_transposed,
)
from normjax.functional.groups import gram, matmul, times
from normjax.functional.whitening import inverse_sqrt

# The package's attribute of this name is the function.
layer = importlib.import_module("normjax.functional.decorrelated_layer_norm")


def draw(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape) + 3
    return jnp.asarray(x + 0.7 * np.roll(x, 1, -1), jnp.float32)


def symmetric(*shape, seed=0):
    x = draw(*shape, seed=seed)
    return x + jnp.swapaxes(x, -1, -2)


PRODUCTS = {
    "gram": (lanes.gram, gram, (draw(3, 2, 5, 4),)),
    "times": (lanes.times, times, (draw(3, 2, 5, 4), symmetric(3, 2, 4, 4))),
    "matmul": (lanes.matmul, matmul, (draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1))),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_along_lanes_are_the_products(name):
    along_lanes, plain, arguments = PRODUCTS[name]
    # The derivative of `times` takes its matrices as symmetric: so are the tangents.
    tangents = tuple(symmetric(*a.shape) if a.shape[-1] == a.shape[-2] else a + 1 for a in arguments)
    got, want = (jax.jvp(f, arguments, tangents) for f in (along_lanes, plain))
    chex.assert_trees_all_close(got, want, rtol=2e-6, atol=1e-4)

    def gradient(f):
        y, pull = jax.vjp(f, *arguments)
        return pull(jax.tree.map(lambda y: symmetric(*y.shape) if y.shape[-1] == y.shape[-2] else y, y))

    chex.assert_trees_all_close(gradient(along_lanes), gradient(plain), rtol=2e-6, atol=1e-2)


@pytest.mark.parametrize("method", ["newton", "eigh"])
def test_inverse_roots_along_lanes_are_the_inverse_roots(method):
    x = draw(3, 2, 9, 4)
    covariance = gram(x - x.mean(2, keepdims=True)) / 9
    got = lanes.inverse_sqrt(covariance, method, 5, 1e-5)
    chex.assert_trees_all_close(got, inverse_sqrt(covariance, method, 5, 1e-5), rtol=1e-5, atol=1e-6)


OPTIONS = [
    {},
    {"mode": "group"},
    {"method": "eigh", "shrink": 0.1},
    {"layer_norm": False, "iterations": 1},
    {"renormalize": False, "shrink": 0.3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_layer_along_lanes_is_the_layer(options, monkeypatch):
    # No CPU takes the TPU's branch by itself.
    x, g = draw(3, 4, 5, 12), draw(3, 4, 5, 12, seed=1)
    f = partial(decorrelated_layer_norm, group_size=4, **options)
    want, pull = jax.vjp(f, x)
    monkeypatch.setattr(layer, "_BY_ROWS", layer._BY_LANES)
    got, pull_along_lanes = jax.vjp(f, x)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=3e-5)
    chex.assert_trees_all_close(pull_along_lanes(g), pull(g), rtol=1e-4, atol=5e-5)


KERNELS = [
    ((3, 4, 5, 12), {"group_size": 4}),  # fewer samples than a tile is high
    ((11, 4, 5, 12), {"group_size": 3, "shrink": 0.1}),  # a last block that is not full
    ((9, 2, 8, 12), {"group_size": 4}),  # rows that fill a tile: the batch comes first
    ((2, 9, 8), {"group_size": 8}),  # one axis of positions
    ((2, 3, 7, 256), {"group_size": 16}),  # two matrices of 128 channels
    ((2, 15, 15, 128), {"group_size": 128, "layer_norm": False}),
    ((2, 96, 100, 8), {"group_size": 8, "renormalize": False, "iterations": 3}),  # samples too large to share a block
]


@pytest.mark.parametrize(("shape", "options"), KERNELS, ids=str)
def test_interpreted_kernels_are_the_layer_and_its_gradient(shape, options):
    whitening = Whitening(16, 5, 1e-5, 0.0, layer_norm=True, renormalize=True)._replace(**options)
    x, g, scale, bias = draw(*shape), draw(*shape, seed=1), draw(shape[-1], seed=2), draw(shape[-1], seed=3)
    want, pull = jax.vjp(partial(decorrelated_layer_norm, **options), x, scale, bias)
    got = normalize_samples(whitening, x, scale, bias, interpret=True)
    chex.assert_trees_all_close(got, want, rtol=1e-5, atol=5e-5)
    got = normalize_samples_transposed(whitening, x, scale, bias, g, interpret=True)
    chex.assert_trees_all_close(got, pull(g), rtol=1e-4, atol=2e-4)


def test_the_option_changes_nothing_on_other_platforms():
    x, g = draw(3, 4, 5, 12), draw(3, 4, 5, 12, seed=1)

    @partial(jax.jit, static_argnums=0)
    def both(tpu_kernel, *affine):
        y, pull = jax.vjp(partial(decorrelated_layer_norm, group_size=4, tpu_kernel=tpu_kernel), x, *affine)
        return y, pull(g)

    affine = draw(12, seed=2), draw(12, seed=3)
    chex.assert_trees_all_close(both(True, *affine), both(False, *affine), rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_close(both(True), both(False), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tpu_kernel", [True, False])
def test_tpus_get_the_kernel_where_it_is_asked_for(tpu_kernel):
    def step(x, g):
        y, pull = jax.vjp(partial(decorrelated_layer_norm, group_size=16, tpu_kernel=tpu_kernel), x)
        return y, pull(g)

    x = draw(8, 4, 4, 128)
    for platform, kernels in (("tpu", 2 * tpu_kernel), ("cpu", 0)):
        program = export.export(jax.jit(step), platforms=(platform,))(x, x)
        assert program.mlir_module().count("tpu_custom_call") == kernels


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4, 4, 8), {"mode": "group"}, "tpu_kernel=True takes mode='channel' only; mode is 'group'"),
        ((2, 4, 4, 8), {"method": "eigh"}, "tpu_kernel=True takes method='newton' only; method is 'eigh'"),
        ((2, 4, 4, 192), {"group_size": 8}, "the input has 192 in groups of 8"),
        ((2, 4, 4, 256), {"group_size": 256}, "the input has 256 in groups of 256"),
        ((2, 2, 2, 2048), {"group_size": 16}, "up to 1024 in groups of a size that divides 128; the input has 2048"),
        ((1, 128, 128, 8), {"group_size": 8}, "one with 16384 positions and 8 channels takes 8.0 MiB"),
    ],
)
def test_what_the_kernels_do_not_take_is_refused_on_every_platform(shape, options, message):
    options = {"group_size": 4, **options}
    with pytest.raises(ValueError, match=message):
        decorrelated_layer_norm(jnp.ones(shape), tpu_kernel=True, **options)


def test_the_kernel_refuses_float64():
    # Pallas said so only when the program was lowered for a TPU.
    with jax.enable_x64(), pytest.raises(ValueError, match="float32 and half precision; x is float64"):
        decorrelated_layer_norm(jnp.ones((2, 4, 4, 8), jnp.float64), group_size=4, tpu_kernel=True)


def test_an_empty_batch_is_exported_for_tpus():
    # The number of samples of a block divided by zero.
    f = jax.jit(partial(decorrelated_layer_norm, tpu_kernel=True))
    program = export.export(f, platforms=("tpu",))(jnp.ones((0, 4, 4, 64)))
    assert program.out_avals[0].shape == (0, 4, 4, 64)


@pytest.mark.parametrize("value", [0.1, 1000.1, 1e6 + 0.3])
@pytest.mark.parametrize("positions", [49, 1000])
def test_a_constant_sample_becomes_zero_in_every_form(value, positions):
    # The rounding of the mean was amplified to unit size by layer norm, whitening and renormalisation.
    x = jnp.full((1, positions, 4), value)
    arguments = x, jnp.ones(4), jnp.zeros(4)
    whitening = Whitening(2, 5, 1e-5, 0.0, layer_norm=True, renormalize=True)
    form = layer._form(x, 2, "channel", "newton", 5, 1e-5, 0.0, True, True)
    results = [layer._decorrelate(form, products, x) for products in (layer._BY_ROWS, layer._BY_LANES)]
    results.append(normalize_samples(whitening, *arguments, interpret=True))
    for result in results:
        chex.assert_trees_all_equal(result, jnp.zeros_like(x))
