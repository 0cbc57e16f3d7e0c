"""The residual networks: strides and shortcuts of He et al., and blocks that start as nothing as in Goyal et al."""

from collections import Counter

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import CLASSES, NORMS, WIDTHS, convolutions, evaluate, images, network, variables

from normjax.linen import make_norm
from normjax.models import BottleneckResNet, build_model


def test_resnet50_strides_on_the_3x3_convolutions():
    # v1.5. In v1 the first 1x1 of a block strides: then six 1x1 would have stride 2, and no 3x3.
    net = build_model("resnet50", num_classes=10, norm=make_norm("batch_norm"))
    expected = {
        ((7, 7), (2, 2)): 1,
        ((1, 1), (1, 1)): 2 * 16 + 1,  # two a block, and the shortcut of the first stage
        ((3, 3), (1, 1)): 13,
        ((3, 3), (2, 2)): 3,  # at the start of the stages 2 to 4
        ((1, 1), (2, 2)): 3,  # their shortcuts
    }
    assert Counter(convolutions(net, jnp.zeros((1, 64, 64, 3)))) == expected


def test_resnet20_strides_twice_and_has_no_convolution_on_its_shortcuts():
    net = build_model("resnet20", num_classes=10, norm=make_norm("batch_norm"))
    expected = {((3, 3), (1, 1)): 17, ((3, 3), (2, 2)): 2}
    assert Counter(convolutions(net, jnp.zeros((1, 32, 32, 3)))) == expected


def initial_norms(net, x):
    """Parameters of the norms as the network initialises them; the kernels are not computed."""

    def init():
        params = net.init(jax.random.key(0), x, train=False)["params"]
        return {layer: value for layer, value in params.items() if "norm" in layer}

    with jax.numpy_rank_promotion("allow"):
        return jax.jit(init)()


@pytest.mark.parametrize("norm", NORMS)
def test_resnet50_starts_with_the_last_scale_of_each_block_at_zero(norm):
    for layer, params in initial_norms(network("resnet50", norm), images()).items():
        scale = 0 if layer.endswith("_norm2") else 1
        chex.assert_trees_all_equal(params["scale"], jnp.full_like(params["scale"], scale))
        chex.assert_trees_all_equal(params["bias"], jnp.zeros_like(params["bias"]))


def test_resnet50_blocks_after_the_first_of_a_stage_start_as_the_identity():
    # A network without them computes the same, whatever their kernels hold.
    deep, x = network("resnet50"), images()
    norm = make_norm("batch_norm", **NORMS["batch_norm"])
    flat = BottleneckResNet(num_classes=CLASSES, norm=norm, blocks=(1, 1, 1, 1), widths=WIDTHS["resnet50"])
    state = variables(deep, x)
    state["params"] |= initial_norms(deep, x)
    shared = {kind: {layer: state[kind][layer] for layer in tree} for kind, tree in variables(flat, x).items()}
    logits = evaluate(deep, state, x)
    chex.assert_trees_all_close(evaluate(flat, shared, x), logits, rtol=1e-5, atol=1e-5)
    assert np.ptp(logits, axis=0).min() > 1e-2  # the shortcuts carry the images through
