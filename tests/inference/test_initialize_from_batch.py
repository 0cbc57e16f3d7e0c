"""Data-dependent initialisation: each layer gives mean 0 and variance 1, by the paper's formula."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import normjax
from normjax.linen import make_norm, make_weight_norm
from normjax.models import build_model
from normjax.nnx import StructuralWeightNorm as NnxStructuralWeightNorm


def draw(*shape, seed=0, shift=0.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape) * 2 + shift, jnp.float32)


def standard(y):
    axes = tuple(range(np.ndim(y) - 1))
    np.testing.assert_allclose(np.mean(y, axes), 0, atol=1e-4)
    np.testing.assert_allclose(np.std(y, axes), 1, atol=1e-3)


@pytest.mark.parametrize("measure", [None, "sparsity", "neuron"])
def test_scale_and_bias_are_those_of_the_paper(measure):
    x = draw(64, 8, shift=1.0)
    layer = normjax.StructuralWeightNorm(nn.Dense(4), base="weight_norm", measure=measure)
    variables = layer.init(jax.random.key(0), x)
    # Wherever scale and bias start, they end at the same.
    moved = jax.tree.map(lambda leaf: leaf + 0.5, {**variables["params"]})
    moved["layer_instance"]["kernel"] = variables["params"]["layer_instance"]["kernel"]
    t = layer.apply({"params": {**variables["params"], "scale": jnp.ones(4)}}, x)
    t = np.asarray(t, np.float64)
    for start in (variables, {"params": moved}):
        params = normjax.initialize_from_batch(layer, start, x)["params"]
        np.testing.assert_allclose(params["scale"], 1 / t.std(0), rtol=1e-4)
        np.testing.assert_allclose(params["layer_instance"]["bias"], -t.mean(0) / t.std(0), rtol=1e-3, atol=1e-4)
        standard(layer.apply({"params": params}, x))
        chex.assert_trees_all_equal(params["layer_instance"]["kernel"], moved["layer_instance"]["kernel"])


class Deep(nn.Module):
    """Layers one behind the other; what each gives is told."""

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = normjax.StructuralWeightNorm(nn.Conv(6, (3, 3)), measure="neuron")(x)
            self.sow("intermediates", "outputs", x)
            x = nn.relu(x)
        return x


def test_each_layer_is_fed_by_those_before_it_in_their_new_state():
    net, x = Deep(), draw(16, 6, 6, 3, shift=3.0)
    variables = {"params": net.init(jax.random.key(0), x)["params"]}
    _, before = net.apply(variables, x, mutable=["intermediates"])
    assert np.abs(np.std(before["intermediates"]["outputs"][2], (0, 1, 2)) - 1).max() > 0.3
    ready = normjax.initialize_from_batch(net, variables, x)
    _, after = net.apply(ready, x, mutable=["intermediates"])
    for y in after["intermediates"]["outputs"]:
        standard(y)


def test_networks_without_norm_find_their_biases_in_its_place():
    net = build_model(
        "mlp", num_classes=3, norm=make_norm("none"), weight_norm=make_weight_norm("orthogonal"), widths=(12, 8)
    )
    x = draw(64, 4, 4, 1, shift=2.0)
    variables = net.init(jax.random.key(0), x, train=False)
    ready = normjax.initialize_from_batch(net, variables, x, train=False)
    _, told = net.apply(
        ready, x, train=False, capture_intermediates=lambda module, _: module.name == "norm1", mutable=["intermediates"]
    )
    standard(told["intermediates"]["norm1"]["__call__"][0])
    chex.assert_trees_all_equal(ready["params"]["head"], variables["params"]["head"])


def test_nnx_does_the_same_by_a_switch():
    x = draw(64, 8, shift=1.0)
    linen = normjax.StructuralWeightNorm(nn.Dense(4), base="weight_norm")
    variables = linen.init(jax.random.key(0), x)
    params = normjax.initialize_from_batch(linen, variables, x)["params"]
    layer = NnxStructuralWeightNorm(nnx.Linear(8, 4, rngs=nnx.Rngs(0)), base="weight_norm")
    layer.layer_instance.kernel[...] = variables["params"]["layer_instance"]["kernel"]
    layer.set_attributes(initialize_from_batch=True)
    y = layer(x)
    layer.set_attributes(initialize_from_batch=False)
    chex.assert_trees_all_close(layer.scale[...], params["scale"], rtol=1e-5)
    chex.assert_trees_all_close(layer.layer_instance.bias[...], params["layer_instance"]["bias"], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(layer(x), y, rtol=1e-4, atol=1e-4)
    standard(y)


def test_layers_inside_a_scan_and_layers_that_are_called_twice():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return normjax.StructuralWeightNorm(nn.Dense(6), group_size=3)(x), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]

    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = normjax.StructuralWeightNorm(nn.Dense(6), group_size=3)
            first = layer(x)
            self.sow("intermediates", "first", first)
            return layer(nn.relu(first))

    x = draw(64, 6, shift=1.0)
    for net in (Deep(), Tied()):
        variables = {"params": net.init(jax.random.key(0), x)["params"]}
        ready = normjax.initialize_from_batch(net, variables, x)
        chex.assert_trees_all_equal_shapes(ready, variables)
        y, told = net.apply(ready, x, mutable=["intermediates"])
        standard(told["intermediates"]["first"][0] if isinstance(net, Tied) else y)


def test_an_output_that_never_changes_keeps_its_scale():
    x = jnp.ones((8, 4))
    layer = normjax.StructuralWeightNorm(nn.Dense(2), base="weight_norm")
    variables = layer.init(jax.random.key(0), x)
    params = normjax.initialize_from_batch(layer, variables, x)["params"]
    chex.assert_trees_all_equal(params["scale"], variables["params"]["scale"])
    chex.assert_trees_all_close(layer.apply({"params": params}, x), jnp.zeros((8, 2)), atol=1e-6)


def test_mistakes_are_told():
    x = draw(8, 4)
    plain = nn.Dense(3)
    with pytest.raises(ValueError, match="Dense has no StructuralWeightNorm with a scale"):
        normjax.initialize_from_batch(plain, plain.init(jax.random.key(0), x), x)
    layer = normjax.StructuralWeightNorm(nn.Dense(3), base="weight_norm", use_scale=False)
    with pytest.raises(ValueError, match="no StructuralWeightNorm with a scale"):
        normjax.initialize_from_batch(layer, layer.init(jax.random.key(0), x), x)
    layer = normjax.StructuralWeightNorm(nn.Dense(3), base="weight_norm")
    with pytest.raises(ValueError, match=r"the batch is empty: an input has shape \(0, 4\)"):
        normjax.initialize_from_batch(layer, layer.init(jax.random.key(0), x), x[:0])
