"""Logits of each network against the same network in NumPy."""

import chex
import jax
import numpy as np
import numpy_networks
import pytest
from model_cases import NETWORKS, SIDE, evaluate, images, network, train, variables


# At 2 pixels a side the second stage of the convnet has a single one: nothing is left to pool.
@pytest.mark.parametrize(("name", "side"), [*((name, SIDE) for name in NETWORKS), ("convnet", 2)])
def test_logits_are_those_of_numpy(name, side):
    net, x = network(name), images(side)
    state = variables(net, x)
    values, wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (x, state))
    form = getattr(numpy_networks, name)
    expected = form(values, wide["params"], wide["batch_stats"])
    chex.assert_trees_all_close(evaluate(net, state, x), expected, rtol=1e-4, atol=1e-4)
    expected = form(values, wide["params"], None)
    chex.assert_trees_all_close(train(net, state, x)[0], expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 1e-2  # the images do reach the logits
