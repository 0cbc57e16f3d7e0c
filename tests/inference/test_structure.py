"""What is told of a network's kernels: zeros and dead neurons as they were made, scales as they act."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import normjax
from normjax.functional import neuron_scale, orthogonal_weight_norm
from normjax.inference import weight_structure


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class Net(nn.Module):
    """Two groups of a convolution, a transposed one, and a product."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), feature_group_count=2, name="grouped")(x)
        x = nn.ConvTranspose(5, (3, 3), transpose_kernel=True, name="transposed")(x)
        return nn.Dense(3, name="dense")(x.mean((1, 2)))


def test_zeros_and_dead_neurons_are_found_where_they_were_put():
    x = draw(2, 5, 5, 4)
    variables = Net().init(jax.random.key(0), x)
    params = jax.tree.map(np.array, variables["params"])
    # Inputs 0 and 1 belong to the first group (outputs 0 to 2), 2 and 3 to the second.
    params["grouped"]["kernel"][:, :, 1, 3:] = 0  # input 3
    params["grouped"]["kernel"][..., 1] = 0  # output 1
    params["transposed"]["kernel"][:, :, 4, :] = 0  # output 4, which comes first in this kernel
    params["transposed"]["kernel"][0, 0] = 0
    params["dense"]["kernel"][2] = 0  # input 2
    layers = weight_structure(Net(), {"params": params}, x)
    found = {layer.path: layer for layer in layers}
    assert [layer.path for layer in layers] == [("grouped",), ("transposed",), ("dense",)]
    grouped, transposed, dense = layers
    assert (grouped.dead_inputs.tolist(), grouped.dead_outputs.tolist()) == ([3], [1])
    assert (transposed.dead_inputs.tolist(), transposed.dead_outputs.tolist()) == ([], [4])
    assert (dense.dead_inputs.tolist(), dense.dead_outputs.tolist()) == ([2], [])
    for path, layer in found.items():
        kernel = params[path[0]]["kernel"]
        assert (layer.zeros, layer.weights) == ((kernel == 0).sum(), kernel.size)
        assert layer.neuron_scales is None
    # Dead outputs give their bias whatever comes in, dead inputs change nothing.
    y = Net().apply({"params": params}, x, capture_intermediates=True, mutable=["intermediates"])[1]["intermediates"]
    assert np.ptp(y["grouped"]["__call__"][0][..., 1]) == 0
    chex.assert_trees_all_close(
        Net().apply({"params": params}, x.at[..., 3].add(10.0)), Net().apply({"params": params}, x), atol=1e-5
    )


def test_kernels_are_looked_at_as_the_layer_takes_them():
    model = normjax.StructuralWeightNorm(nn.Dense(8), measure="sparsity", strength=0.5)
    x = draw(2, 12)
    variables = model.init(jax.random.key(0), x)
    (layer,) = weight_structure(model, variables, x)
    kernel = model.apply(variables, jnp.eye(12)) - model.apply(variables, jnp.zeros((1, 12)))
    assert layer.zeros == int((kernel == 0).sum()) > 0
    assert not np.any(variables["params"]["layer_instance"]["kernel"] == 0)


@pytest.mark.parametrize("axis", ["input", "output"])
def test_neuron_scales_are_those_that_act(axis):
    model = normjax.StructuralWeightNorm(nn.Dense(8), measure="neuron", axis=axis, strength=0.5, group_size=4)
    x = draw(2, 12)
    variables = model.init(jax.random.key(0), x)
    kernel = variables["params"]["layer_instance"]["kernel"]
    (layer,) = weight_structure(model, variables, x)
    measured = orthogonal_weight_norm(kernel, group_size=4) if axis == "input" else kernel
    chex.assert_trees_all_close(layer.neuron_scales, np.asarray(neuron_scale(measured, strength=0.5, axis=axis)))


def test_a_model_without_kernels_is_told():
    model = nn.LayerNorm()
    with pytest.raises(ValueError, match="LayerNorm has no Dense, Conv or ConvTranspose that could be looked at"):
        weight_structure(model, model.init(jax.random.key(0), jnp.ones((1, 2))), jnp.ones((1, 2)))
