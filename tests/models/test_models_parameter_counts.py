"""Parameters of the published forms, counted without running them, against the papers and sums by hand."""

import jax
import jax.numpy as jnp
import pytest
from model_cases import NORMS, convolutions, count

from normjax.linen import make_norm
from normjax.models import build_model

# ResNet-(6n+2) on CIFAR-10, He et al. (2016), table 6: 0.27 M for n = 3, 0.85 M for n = 9.
#   stem            9*3*16 = 432
#   stage 16        2n convolutions of 9*16*16 = 2304
#   stage 32        one of 9*16*32 = 4608, 2n - 1 of 9*32*32 = 9216
#   stage 64        one of 9*32*64 = 18432, 2n - 1 of 9*64*64 = 36864
#   norms           scale and bias: 2 * (16 + 2n * (16 + 32 + 64))
#   head            64*10 + 10 = 650; the shortcuts have none (option A)
RESNET20 = 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864 + 2 * (16 + 6 * 112) + 650
RESNET56 = 432 + 18 * 2304 + 4608 + 17 * 9216 + 18432 + 17 * 36864 + 2 * (16 + 18 * 112) + 650


def shapes(name, classes, norm="batch_norm", side=32, channels=3, **options):
    net = build_model(name, num_classes=classes, norm=make_norm(norm, **NORMS[norm]), **options)
    x = jnp.zeros((1, side, side, channels))
    with jax.numpy_rank_promotion("allow"):
        return jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [("resnet20", 10, RESNET20), ("resnet56", 10, RESNET56), ("resnet50", 1000, 25_557_032)],
)
def test_residual_networks_have_the_published_number_of_parameters(name, classes, expected):
    assert count(shapes(name, classes)["params"]) == expected


def test_vgg16_has_the_parameters_of_configuration_d():
    # Simonyan and Zisserman (2015), table 2: 138 M; to the last one, torchvision's.
    with jax.numpy_rank_promotion("allow"):
        net = build_model("vgg16", num_classes=1000, norm=make_norm("none"))
        state = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))
    assert count(state["params"]) == 138_357_544


def test_the_sums_by_hand_are_those_of_the_paper():
    assert (round(RESNET20 / 1e6, 2), round(RESNET56 / 1e6, 2)) == (0.27, 0.85)


@pytest.mark.parametrize(("name", "layers"), [("resnet20", 20), ("resnet56", 56), ("resnet50", 50)])
def test_residual_networks_have_the_layers_of_their_name(name, layers):
    # Convolutions and the head; the shortcuts of ResNet-50, one a stage, do not count.
    net = build_model(name, num_classes=10, norm=make_norm("batch_norm"))
    shortcuts = 4 if name == "resnet50" else 0
    assert len(convolutions(net, jnp.zeros((1, 32, 32, 3)))) - shortcuts + 1 == layers


@pytest.mark.parametrize("name", ["resnet20", "resnet50"])
def test_batch_statistics_are_as_many_as_scales_and_biases(name):
    state = shapes(name, 10)
    scales = [leaf for path, leaf in jax.tree.leaves_with_path(state["params"]) if path[-1].key == "scale"]
    assert count(state["batch_stats"]) == 2 * count(scales)


@pytest.mark.parametrize("norm", ["layer_norm", "group_norm"])
def test_other_norms_have_the_same_parameters_and_no_statistics(norm):
    state = shapes("resnet20", 10, norm)
    assert count(state["params"]) == RESNET20
    assert set(state) == {"params"}


def test_widths_and_dense_layers_are_those_asked_for():
    # MLP on 6*6*1: no bias but in the norms and the head.
    assert count(shapes("mlp", 4, side=6, channels=1, widths=(7,))["params"]) == 36 * 7 + 2 * 7 + 7 * 4 + 4
    # Two convolutions a stage and a pooling: 8 -> 4 -> 2 pixels a side, so 2*2*6 go into the first dense layer.
    convolutional = 9 * (3 * 5 + 5 * 5 + 5 * 6 + 6 * 6) + 2 * (5 + 5 + 6 + 6)
    dense = 2 * 2 * 6 * 9 + 9 * 8 + 2 * (9 + 8) + 8 * 4 + 4
    assert count(shapes("convnet", 4, side=8, widths=(5, 6), dense=(9, 8))["params"]) == convolutional + dense
    assert count(shapes("convnet", 4, side=8, widths=(5, 6), dense=())["params"]) == convolutional + 2 * 2 * 6 * 4 + 4
    # ResNet-20 in two stages of 4 and 6: 6 convolutions each.
    thin = 9 * (3 * 4 + 6 * 4 * 4 + 4 * 6 + 5 * 6 * 6) + 2 * (4 + 6 * (4 + 6)) + 6 * 10 + 10
    assert count(shapes("resnet20", 10, widths=(4, 6))["params"]) == thin
