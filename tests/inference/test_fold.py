"""Folding keeps the predictions and leaves no norm, whatever the network is written like."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from inference_cases import draw, initialised

import normjax
from normjax.models.convnet import ConvNet
from normjax.models.mlp import MLP
from normjax.models.resnet import CifarResNet
from normjax.tracing import leaf_paths

inference = nn.BatchNorm(use_running_average=True)


class SetupStyle(nn.Module):
    """Layers made in setup, one of them used twice with a norm of its own each time."""

    def setup(self):
        self.dense = nn.Dense(5)
        self.first, self.second = nn.BatchNorm(use_running_average=True), nn.BatchNorm(use_running_average=True)

    def __call__(self, x):
        return self.second(self.dense(nn.relu(self.first(self.dense(x)))))


class SharedNorm(nn.Module):
    """One norm after two layers."""

    @nn.compact
    def __call__(self, x):
        norm = nn.BatchNorm(use_running_average=True)
        return norm(nn.Dense(4)(x)) + norm(nn.Dense(4)(x))


class PreActivation(nn.Module):
    """The norm stands before the layer: nothing to fold into."""

    @nn.compact
    def __call__(self, x):
        return nn.Conv(4, (3, 3))(nn.relu(nn.BatchNorm(use_running_average=True, name="before")(x)))


class Kinds(nn.Module):
    """Every kind of linear layer."""

    @nn.compact
    def __call__(self, x):
        def norm(y):
            return nn.relu(nn.BatchNorm(use_running_average=True)(y))

        x = norm(nn.Conv(8, (3, 3), strides=2, use_bias=False)(x))
        x = norm(nn.Conv(8, (3, 3), feature_group_count=8)(x))
        x = norm(nn.ConvTranspose(6, (3, 3), strides=(2, 2), transpose_kernel=True)(x))
        x = nn.BatchNorm(use_running_average=True)(nn.DenseGeneral((2, 3))(x.mean((1, 2)))).reshape(-1, 6)
        return nn.BatchNorm(use_running_average=True, dtype=jnp.float32)(nn.Einsum((6, 5), "bi,io->bo")(x))


class Scanned(nn.Module):
    """Blocks in a rematerialised scan: their kernels are slices of one array."""

    @nn.compact
    def __call__(self, x):
        class Block(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                y = nn.BatchNorm(use_running_average=True)(nn.Conv(carry.shape[-1], (3, 3))(carry))
                return nn.relu(y), y.mean()

        blocks = nn.scan(
            nn.remat(Block), variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True}, length=3
        )
        x, means = blocks()(x, None)
        return x.mean((1, 2)), means


class TwoReaders(nn.Module):
    """What the layer before the norm gives is used a second time: folding it away would need it twice."""

    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4)(x)
        return nn.BatchNorm(use_running_average=True)(y) + y


def check(model, x, folded, multiply_adds=0, **options):
    variables = initialised(model, x, **options)
    with jax.numpy_rank_promotion("allow"):
        expected = jax.jit(lambda v, x: model.apply(v, x, **options))(variables, x)
        apply, fewer = normjax.fold(model, variables, x, **options)
        program = jax.jit(apply).lower(fewer, x)
        chex.assert_trees_all_close(jax.jit(apply)(fewer, x), expected, rtol=1e-5, atol=1e-5)
        # Another batch size than the example's.
        double = jnp.concatenate([x, x])
        expected = model.apply(variables, double, **options)
        chex.assert_trees_all_close(apply(fewer, double), expected, rtol=1e-5, atol=1e-5)
    assert len(apply.folded) == folded
    assert len(apply.multiply_adds) == multiply_adds
    assert "rsqrt" not in program.as_text()
    assert not any("var" in path for path in leaf_paths(fewer))
    return apply, fewer


@pytest.mark.parametrize("name", ["batch_norm", "batch_renorm", "ghost_batch_norm"])
@pytest.mark.parametrize(
    ("model", "shape", "norms"),
    [
        (lambda norm: CifarResNet(10, norm, blocks=1, widths=(4, 8, 8)), (4, 16, 16, 3), 7),
        (lambda norm: ConvNet(10, norm, widths=(4, 4, 8), dense=(8, 8)), (4, 16, 16, 3), 8),
        (lambda norm: MLP(10, norm, widths=(8, 8)), (4, 4, 4, 1), 2),
    ],
    ids=["resnet", "convnet", "mlp"],
)
def test_networks_of_the_project_fold_to_plain_layers(model, shape, norms, name):
    check(model(normjax.make_norm(name)), draw(*shape), norms, train=False)


@pytest.mark.parametrize(
    ("model", "shape", "folded"),
    [(SetupStyle(), (4, 5), 2), (SharedNorm(), (4, 5), 2), (Kinds(), (4, 8, 8, 3), 5), (Scanned(), (4, 6, 6, 3), 3)],
    ids=["setup style, shared layer", "shared norm", "kinds of layers", "scan and remat"],
)
def test_ways_to_write_a_network(model, shape, folded):
    check(model, draw(*shape), folded)


def test_a_norm_with_nothing_before_it_is_one_multiply_add_and_is_named():
    apply, variables = check(PreActivation(), draw(4, 6, 6, 3), 0, multiply_adds=1)
    assert apply.multiply_adds == ("before",)
    assert set(variables["params"]["before"]) == {"scale", "bias"}


def test_a_layer_with_a_second_reader_keeps_its_kernel():
    _, variables = check(TwoReaders(), draw(4, 5), 0, multiply_adds=1)
    original = initialised(TwoReaders(), draw(4, 5))
    chex.assert_trees_all_equal(variables["params"]["Dense_0"], original["params"]["Dense_0"])


def test_the_folded_kernel_is_the_kernel_times_gamma_over_the_deviation():
    model = nn.Sequential([nn.Dense(3), inference])
    x = draw(4, 5)
    variables = initialised(model, x)
    folded = normjax.fold(model, variables, x).variables["params"]["layers_0"]
    dense, norm = variables["params"]["layers_0"], variables["params"]["layers_1"]
    stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["batch_stats"]["layers_1"])
    gain = np.asarray(norm["scale"]) / np.sqrt(stats["var"] + 1e-5)
    expected = {
        "kernel": np.asarray(dense["kernel"]) * gain,
        "bias": (np.asarray(dense["bias"]) - stats["mean"]) * gain + np.asarray(norm["bias"]),
    }
    chex.assert_trees_all_close(folded, expected, rtol=1e-5, atol=1e-6)
    direct = normjax.functional.fold_batch_norm(
        dense["kernel"],
        dense["bias"],
        *(variables["batch_stats"]["layers_1"][name] for name in ("mean", "var")),
        norm["scale"],
        norm["bias"],
    )
    chex.assert_trees_all_close(direct, (expected["kernel"], expected["bias"]), rtol=1e-5, atol=1e-6)


def test_half_precision_compute_stays_and_keeps_its_predictions():
    model = CifarResNet(10, normjax.make_norm("batch_norm"), blocks=1, widths=(4, 8, 8), dtype=jnp.bfloat16)
    x = draw(4, 16, 16, 3)
    variables = initialised(model, x, train=False)
    apply, folded = normjax.fold(model, variables, x, train=False)
    expected = model.apply(variables, x, train=False)
    chex.assert_trees_all_close(apply(folded, x), expected, rtol=0.05, atol=0.1)
    assert "bf16" in jax.jit(apply).lower(folded, x).as_text()


def test_a_half_precision_network_is_folded_under_strict_promotion():
    # The float32 statistics met the bfloat16 kernel.
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Conv(4, (3, 3), use_bias=False, dtype=jnp.bfloat16)(x)
            return normjax.BatchNorm(use_running_average=True, dtype=jnp.bfloat16)(x)

    x = draw(2, 5, 5, 3).astype(jnp.bfloat16)
    variables = Network().init(jax.random.key(0), x)
    with jax.numpy_dtype_promotion("strict"):
        apply, folded = normjax.fold(Network(), variables, x)
        got, want = apply(folded, x), Network().apply(variables, x)
    assert got.dtype == jnp.bfloat16
    chex.assert_trees_all_close(got.astype(jnp.float32), want.astype(jnp.float32), rtol=0.02, atol=0.02)


def test_gradients_pass_through_the_folded_network():
    # It can be fine-tuned without its norms.
    model = nn.Sequential([nn.Dense(3), inference])
    x = draw(4, 5)
    apply, folded = normjax.fold(model, initialised(model, x), x)
    gradient = jax.grad(lambda v: apply(v, x).sum())(folded)["params"]["layers_0"]
    chex.assert_trees_all_close(gradient["kernel"], jnp.broadcast_to(x.sum(0)[:, None], (5, 3)), rtol=1e-5)


def test_a_network_that_takes_another_way_is_refused():
    # Code that branches on shapes must not get the kernels of another branch in silence.
    class Branches(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))
            return x if x.shape[0] > 2 else nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x))

    x = draw(2, 4)
    apply, folded = normjax.fold(Branches(), initialised(Branches(), x), x)
    with pytest.raises(ValueError, match="takes another way"):
        apply(folded, draw(4, 4))
