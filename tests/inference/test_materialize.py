"""Kernels written back: the same predictions, exact zeros, and variables that the plain network takes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import normjax
from normjax.inference import weight_structure
from normjax.linen import make_norm, make_weight_norm
from normjax.models import build_model

NETWORKS = {
    "mlp": {"widths": (12, 8)},
    "convnet": {"widths": (4, 8), "dense": (16,)},
    "resnet20": {"widths": (4, 8, 8)},
    "resnet50": {"widths": (4, 4, 4, 4)},
}
ONE_BLOCK_A_STAGE = {"resnet20": {"blocks": 1}, "resnet50": {"blocks": (1, 1, 1, 1)}}
SPARSE = {"measure": "sparsity", "strength": 0.5}


def images(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(4, 8, 8, 3)), jnp.float32)


def network(name, weight_norm="structural", norm="batch_norm", **options):
    wrap = make_weight_norm(weight_norm, **options)
    net = build_model(name, num_classes=5, norm=make_norm(norm), weight_norm=wrap, **NETWORKS[name])
    return net.clone(**ONE_BLOCK_A_STAGE.get(name, {}))


def drawn(net, x):
    variables = jax.jit(lambda: net.init(jax.random.key(0), x, train=False))()
    noise = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: leaf + 0.1 * jnp.asarray(noise.uniform(size=leaf.shape), leaf.dtype), variables)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_plain_network_takes_the_kernels_and_predicts_the_same(name):
    net, x = network(name, **SPARSE), images()
    variables = drawn(net, x)
    apply, plain = normjax.materialize(net, variables, x, train=False)
    want = jax.jit(lambda: net.apply(variables, x, train=False))()
    chex.assert_trees_all_close(jax.jit(lambda: apply(plain, x, train=False))(), want, rtol=1e-4, atol=1e-4)
    # The network as its config describes it without a weight norm.
    unwrapped = network(name, "none")
    shapes = jax.eval_shape(lambda: unwrapped.init(jax.random.key(0), x, train=False))
    chex.assert_trees_all_equal_shapes_and_dtypes(plain, shapes)
    given = jax.jit(lambda: unwrapped.apply(plain, x, train=False))()
    chex.assert_trees_all_close(given, want, rtol=1e-4, atol=1e-4)


def test_zeros_of_the_sparse_measure_are_exact_and_the_given_variables_stay():
    net, x = network("mlp", **SPARSE), images()
    variables = drawn(net, x)
    before = jax.tree.map(jnp.copy, variables)
    plain = normjax.materialize(net, variables, x, train=False).variables["params"]
    chex.assert_trees_all_equal(variables, before)
    zeros = float((plain["dense0"]["kernel"] == 0).mean())
    assert 0.2 < zeros < 1
    assert not np.any(plain["head"]["kernel"] == 0)


def test_it_costs_no_operation_of_the_reparametrisation():
    net, x = network("mlp"), images()
    variables = drawn(net, x)
    apply, plain = normjax.materialize(net, variables, x, train=False)

    def operations(function, variables):
        return str(jax.make_jaxpr(lambda v: function(v, x, train=False))(variables)).count("=")

    assert operations(net.apply, variables) > operations(apply, plain) + 50
    assert operations(apply, plain) == operations(network("mlp", "none").apply, plain)


def test_a_layer_that_is_called_twice_is_normalised_once():
    class Tied(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = normjax.StructuralWeightNorm(nn.Dense(6), base="none", measure="sparsity", strength=0.1)
            return layer(layer(x))

    net, x = Tied(), jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    apply, plain = normjax.materialize(net, variables, x)
    chex.assert_trees_all_close(apply(plain, x), net.apply(variables, x), rtol=1e-5, atol=1e-5)


def test_layers_inside_a_scan_are_written_back():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.relu(normjax.StructuralWeightNorm(nn.Dense(6), group_size=3)(x)), None

    class Deep(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)()(x, None)[0]

    net, x = Deep(), jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    variables = net.init(jax.random.key(0), x)
    apply, plain = normjax.materialize(net, variables, x)
    chex.assert_trees_all_close(apply(plain, x), net.apply(variables, x), rtol=1e-5, atol=1e-5)
    assert not any("scale" in str(path) for path, _ in jax.tree_util.tree_leaves_with_path(plain))


def test_batch_norm_folds_into_the_kernels():
    net, x = network("convnet", **SPARSE), images()
    variables = drawn(net, x)
    plain = normjax.materialize(net, variables, x, train=False)
    apply, folded = normjax.fold(plain, plain.variables, x, train=False)
    assert len(apply.folded) == 5
    chex.assert_trees_all_close(apply(folded, x), net.apply(variables, x, train=False), rtol=1e-3, atol=1e-3)


def test_a_model_without_wrappers_is_told():
    net, x = network("mlp", "none"), images()
    variables = net.init(jax.random.key(0), x, train=False)
    with pytest.raises(ValueError, match="MLP has no StructuralWeightNorm, so there is nothing to materialise"):
        normjax.materialize(net, variables, x, train=False)


def test_a_wrapper_that_the_call_does_not_reach_stays():
    class Auxiliary(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            y = normjax.StructuralWeightNorm(nn.Dense(6), group_size=3)(x)
            if train:
                y = y + normjax.StructuralWeightNorm(nn.Dense(6), group_size=3)(x)
            return y

    net, x = Auxiliary(), jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    variables = net.init(jax.random.key(0), x, train=True)
    apply, plain = normjax.materialize(net, variables, x, train=False)
    for train in (False, True):
        want = net.apply(variables, x, train=train)
        chex.assert_trees_all_close(apply(plain, x, train=train), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("second", ["raw", "wrapped"])
def test_a_layer_that_no_single_kernel_serves_is_told(second):
    class Shared(nn.Module):
        def setup(self):
            self.layer = nn.Dense(6)
            self.first = normjax.StructuralWeightNorm(self.layer, group_size=3)
            self.second = self.layer if second == "raw" else normjax.StructuralWeightNorm(self.layer, base="none")

        def __call__(self, x):
            return self.first(x) + self.second(x)

    x = jnp.ones((4, 6))
    variables = Shared().init(jax.random.key(0), x)
    who = "no wrapper" if second == "raw" else "second"
    with pytest.raises(ValueError, match=rf"layer layer is called through first and {who}: no single kernel serves"):
        normjax.materialize(Shared(), variables, x)


def test_kernels_that_say_how_they_are_sharded_keep_saying_it():
    names = (None, "model")
    layer = nn.Dense(6, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), names))
    net, x = normjax.StructuralWeightNorm(layer, group_size=3), jnp.ones((4, 6))
    variables = net.init(jax.random.key(0), x)
    assert variables["params"]["layer_instance"]["kernel"].names == names
    apply, plain = normjax.materialize(net, variables, x)
    assert plain["params"]["layer_instance"]["kernel"].names == names
    assert weight_structure(net, variables, x)[0].shape == (6, 6)
    chex.assert_trees_all_close(apply(plain, x), net.apply(variables, x), rtol=1e-5, atol=1e-5)
