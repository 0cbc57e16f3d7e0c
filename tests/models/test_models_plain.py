"""The plain networks against a few lines of NumPy: normalise, then relu, and a linear head."""

import chex
import jax
import numpy as np
import pytest
from model_cases import EPSILON, evaluate, images, network, train, variables


def norm_and_relu(x, params, stats):
    """Over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    mean, var = (stats["mean"], stats["var"]) if stats else (x.mean(axes), x.var(axes))
    return np.maximum((x - mean) / np.sqrt(var + EPSILON) * params["scale"] + params["bias"], 0)


def dense_layers(x, params, stats, layers):
    for dense, norm in layers:
        x = norm_and_relu(x @ params[dense]["kernel"], params[norm], stats and stats[norm])
    return x @ params["head"]["kernel"] + params["head"]["bias"]


def mlp(x, params, stats):
    return dense_layers(x.reshape(len(x), -1), params, stats, [("dense0", "norm0"), ("dense1", "norm1")])


def convnet(x, params, stats):
    for stage in range(2):
        for i in range(2):
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
            x = np.einsum("nyxcij,ijcd->nyxd", windows, params[f"conv{stage}_{i}"]["kernel"])
            x = norm_and_relu(x, params[f"norm{stage}_{i}"], stats and stats[f"norm{stage}_{i}"])
        n, height, width, channels = x.shape
        if height > 1:
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    return dense_layers(x.reshape(len(x), -1), params, stats, [("dense0", "dense_norm0")])


# At 2 pixels a side the second stage of the convnet has a single pixel: nothing is left to pool.
@pytest.mark.parametrize(("numpy_form", "side"), [(mlp, 8), (convnet, 8), (convnet, 2)])
def test_logits_are_those_of_numpy(numpy_form, side):
    net, x = network(numpy_form.__name__), images(side)
    state = variables(net, x)
    values, wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (x, state))
    expected = numpy_form(values, wide["params"], wide["batch_stats"])
    chex.assert_trees_all_close(evaluate(net, state, x), expected, rtol=1e-4, atol=1e-4)
    expected = numpy_form(values, wide["params"], None)
    chex.assert_trees_all_close(train(net, state, x)[0], expected, rtol=1e-4, atol=1e-4)
