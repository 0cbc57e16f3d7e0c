"""StructuralWeightNorm around layers: Linen and NNX the same, as Flax where Flax has it, and as make_weight_norm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import normjax
from normjax.functional import structural_weight_norm
from normjax.nnx import StructuralWeightNorm as NnxStructuralWeightNorm


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


IMAGE = (2, 6, 6, 4)
LAYERS = {
    "dense": (nn.Dense(8), lambda rngs: nnx.Linear(4, 8, rngs=rngs), {}),
    "conv": (nn.Conv(8, (3, 3)), lambda rngs: nnx.Conv(4, 8, (3, 3), rngs=rngs), {}),
    "strided conv": (
        nn.Conv(8, (3, 3), strides=2, use_bias=False),
        lambda rngs: nnx.Conv(4, 8, (3, 3), strides=2, use_bias=False, rngs=rngs),
        {},
    ),
    "grouped conv": (
        nn.Conv(8, (3, 3), feature_group_count=2),
        lambda rngs: nnx.Conv(4, 8, (3, 3), feature_group_count=2, rngs=rngs),
        {},
    ),
    "depthwise conv": (
        nn.Conv(8, (3, 3), feature_group_count=4),
        lambda rngs: nnx.Conv(4, 8, (3, 3), feature_group_count=4, rngs=rngs),
        {},
    ),
    "transposed conv": (nn.ConvTranspose(8, (3, 3)), lambda rngs: nnx.ConvTranspose(4, 8, (3, 3), rngs=rngs), {}),
    "transposed conv, transposed kernel": (
        nn.ConvTranspose(8, (3, 3), transpose_kernel=True),
        lambda rngs: nnx.ConvTranspose(4, 8, (3, 3), transpose_kernel=True, rngs=rngs),
        {},
    ),
}
OPTIONS = {
    "orthogonal": {},
    "weight norm": {"base": "weight_norm"},
    "sparsity": {"measure": "sparsity", "strength": 0.3},
    "sparsity of outputs, no base": {"measure": "sparsity", "strength": 0.3, "axis": "output", "base": "none"},
    "neuron": {"measure": "neuron"},
    "no scale": {"measure": "neuron", "use_scale": False},
}


def drawn(variables, seed=1):
    """Parameters of which none is zero or one."""
    leaves, tree = jax.tree.flatten(variables)
    return jax.tree.unflatten(tree, [draw(*leaf.shape, seed=seed + i) for i, leaf in enumerate(leaves)])


def outputs_last(kernel, layer):
    return jnp.swapaxes(kernel, -1, -2) if getattr(layer, "transpose_kernel", False) else kernel


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_computes_with_the_normalised_kernel(name, options):
    layer, make, _ = LAYERS[name]
    x = draw(*IMAGE)
    wrapped = normjax.StructuralWeightNorm(layer, **OPTIONS[options])
    variables = drawn(wrapped.init(jax.random.key(0), x))
    params = variables["params"]
    inner = params["layer_instance"]
    fields = {key: value for key, value in OPTIONS[options].items() if key != "use_scale"}
    kernel = structural_weight_norm(
        outputs_last(inner["kernel"], layer),
        params.get("scale"),
        feature_group_count=getattr(layer, "feature_group_count", 1),
        **fields,
    )
    want = layer.apply({"params": {**inner, "kernel": outputs_last(kernel, layer)}}, x)
    chex.assert_trees_all_close(jax.jit(wrapped.apply)(variables, x), want, rtol=1e-4, atol=1e-4)

    twin = NnxStructuralWeightNorm(make(nnx.Rngs(0)), **OPTIONS[options])
    twin.layer_instance.kernel[...] = inner["kernel"]
    if "bias" in inner:
        twin.layer_instance.bias[...] = inner["bias"]
    if twin.scale is not None:
        twin.scale[...] = params["scale"]
    chex.assert_trees_all_close(twin(x), want, rtol=1e-4, atol=1e-4)
    # Flax's own writes the normalised kernel over the stored one.
    chex.assert_trees_all_equal(twin.layer_instance.kernel[...], inner["kernel"])
    chex.assert_trees_all_close(twin.materialize()(x), want, rtol=1e-4, atol=1e-4)

    gradients = jax.grad(lambda v: jnp.sin(wrapped.apply(v, x)).sum())(variables)["params"]
    of_twin = nnx.grad(lambda twin: jnp.sin(twin(x)).sum())(twin)
    chex.assert_trees_all_close(
        of_twin["layer_instance"]["kernel"][...], gradients["layer_instance"]["kernel"], rtol=1e-3, atol=1e-4
    )
    if twin.scale is not None:
        chex.assert_trees_all_close(of_twin["scale"][...], gradients["scale"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_weight_norm_is_that_of_flax(name):
    layer, x = LAYERS[name][0], draw(*IMAGE)
    ours = normjax.StructuralWeightNorm(layer, base="weight_norm", initial_scale=1.0)
    theirs = nn.WeightNorm(layer)
    variables = ours.init(jax.random.key(0), x)
    # Flax names its scale by the path of the kernel.
    params = {"layer_instance": variables["params"]["layer_instance"]}
    params["layer_instance/kernel/scale"] = variables["params"]["scale"]
    chex.assert_trees_all_equal_shapes(params, theirs.init(jax.random.key(0), x)["params"])
    chex.assert_trees_all_close(ours.apply(variables, x), theirs.apply({"params": params}, x), atol=1e-5)


class Net(nn.Module):
    """Wraps by a factory, as a user's model does."""

    weight_norm: object

    @nn.compact
    def __call__(self, x):
        x = nn.relu(self.weight_norm(nn.Conv(8, (3, 3), name="conv"))(x)).mean((1, 2))
        return self.weight_norm(nn.Dense(4, name="dense"))(x)


NAMES = ("none", "orthogonal", "structural", "weight_norm")


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_layer_stay_where_they_are(name):
    # So a trained kernel is found under the same name, whatever the wrapper, and starts as without one. Flax's own
    # keeps the normalised kernel at init.
    plain = Net(normjax.make_weight_norm("none")).init(jax.random.key(0), draw(*IMAGE))["params"]
    params = Net(normjax.make_weight_norm(name)).init(jax.random.key(0), draw(*IMAGE))["params"]
    chex.assert_trees_all_equal({key: params[key] for key in plain}, plain)
    scales = {} if name == "none" else {"conv_weight_norm": {"scale": (8,)}, "dense_weight_norm": {"scale": (4,)}}
    assert jax.tree.map(jnp.shape, {key: params[key] for key in params.keys() - plain.keys()}) == scales
    for key in scales:
        chex.assert_trees_all_close(params[key]["scale"], jnp.full_like(params[key]["scale"], 2**0.5))


def test_without_a_base_the_scale_starts_at_one():
    wrap = normjax.make_weight_norm("structural", base="none", measure="sparsity", strength=0.0)
    x = draw(*IMAGE)
    net = Net(wrap)
    variables = net.init(jax.random.key(0), x)
    plain = Net(normjax.make_weight_norm("none"))
    inner = {key: value for key, value in variables["params"].items() if not key.endswith("weight_norm")}
    chex.assert_trees_all_close(net.apply(variables, x), plain.apply({"params": inner}, x), atol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_the_seed_of_mapped_seeds_makes_no_difference(name):
    layer, x = LAYERS[name][0], draw(*IMAGE)
    wrapped = normjax.StructuralWeightNorm(layer, measure="sparsity", strength=0.3)
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.vmap(lambda key: wrapped.init(key, x))(keys)
    mapped = jax.vmap(lambda v: wrapped.apply(v, x))(variables)
    second = jax.tree.map(lambda leaf: leaf[1], variables)
    chex.assert_trees_all_close(mapped[1], wrapped.apply(second, x), rtol=1e-4, atol=1e-4)


def test_half_precision_layers_take_a_kernel_of_float32_statistics():
    wrapped = normjax.StructuralWeightNorm(nn.Dense(8, dtype=jnp.bfloat16), measure="neuron")
    x = draw(3, 16)
    variables = wrapped.init(jax.random.key(0), x)
    assert variables["params"]["scale"].dtype == jnp.float32
    y = wrapped.apply(variables, x)
    assert y.dtype == jnp.bfloat16
    wide = normjax.StructuralWeightNorm(nn.Dense(8), measure="neuron").apply(variables, x)
    chex.assert_trees_all_close(y.astype(jnp.float32), wide, rtol=0.05, atol=0.05)


def test_a_layer_without_a_kernel_of_two_sides_is_refused():
    for layer in (nn.BatchNorm(use_running_average=True), nn.DenseGeneral((2, 2)), nn.Embed(3, 4)):
        with pytest.raises(ValueError, match=f"wraps a Dense, Conv or ConvTranspose, .* is a {type(layer).__name__}"):
            normjax.StructuralWeightNorm(layer).init(jax.random.key(0), draw(2, 4))
    with pytest.raises(ValueError, match=r"wraps a Linear, Conv or ConvTranspose, .* is a BatchNorm"):
        NnxStructuralWeightNorm(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))


def test_what_does_not_suit_the_kernel_is_told_when_the_layer_is_made():
    message = r"group_size=8 is larger than the rank 3 .* the largest possible is 2"
    with pytest.raises(ValueError, match=message):
        normjax.StructuralWeightNorm(nn.Dense(8), group_size=8).init(jax.random.key(0), draw(2, 4))
    with pytest.raises(ValueError, match=message):
        NnxStructuralWeightNorm(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), group_size=8)


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="'spectral' is not known; use one of none, orthogonal, structural, weight_n"):
        normjax.make_weight_norm("spectral")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("none", {"use_scale": True}, r"'none' has no option 'use_scale'; use one of: none\."),
        ("weight_norm", {"group_size": 4}, r"'weight_norm' has no option 'group_size'; use one of: initial_scale, "),
        ("orthogonal", {"measure": "neuron"}, r"'orthogonal' has no option 'measure'; use one of: center, group_size"),
        ("structural", {"parent": None}, r"'structural' has no option 'parent'; use one of: axis, base, center"),
        ("structural", {"measure": "dropout"}, r"measure='dropout' is not known; use 'sparsity', 'neuron' or None"),
        ("structural", {"base": "qr"}, r"base='qr' is not known; use 'orthogonal', 'weight_norm' or 'none'"),
        ("structural", {"measure": "neuron", "axis": "both"}, r"axis='both' is not known; use 'input' or 'output'"),
        (
            "structural",
            {"measure": "sparsity", "strength": -1.0},
            r"strength=-1.0 is out of range; use a finite number, 0 or more",
        ),
        ("structural", {"strength": 1.0}, r"strength=1.0 has no meaning with measure=None"),
        ("structural", {"measure": "sparsity", "rule": "foo"}, r"rule='foo' is not known; use 'exact' or 'cges'"),
        ("orthogonal", {"method": "svd"}, r"method='svd' is not known; use 'newton' or 'eigh'"),
        ("orthogonal", {"iterations": 2.5}, r"iterations=2.5 is out of range; use a whole number, 1 or more"),
        ("orthogonal", {"group_size": -1}, r"group_size=-1 is out of range; use a whole number, 1 or more, or None"),
        ("structural", {"measure": "neuron", "min_scale": 3.0}, r"min_scale=3.0, max_scale=10.0 are out of range"),
        ("weight_norm", {"use_scale": "abc"}, r"use_scale='abc' is not True or False"),
        ("weight_norm", {"use_scale": False, "initial_scale": 3.0}, r"initial_scale=3.0 has no meaning with use_scale"),
        ("weight_norm", {"initial_scale": float("nan")}, r"initial_scale=nan is out of range; use a finite number"),
        ("weight_norm", {"param_dtype": "foo"}, r"param_dtype='foo' is not a type"),
    ],
)
def test_bad_options_are_told_when_the_factory_is_made(name, options, message):
    # At the time the config is read, not at the first step.
    with pytest.raises(ValueError, match=message):
        normjax.make_weight_norm(name, **options)
