"""Padding in a batch: the valid examples fare as they would without it."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import FORMS, NETWORKS, images, network, train, variables

MASK = np.array([True, False, False, True])


@pytest.mark.parametrize("filling", [0.0, np.nan])
@pytest.mark.parametrize("name", NETWORKS)
def test_padding_leaves_no_trace_in_logits_or_statistics(name, filling):
    # A layer that is not given the mask counts the padding in; NaN would spread from there. The batch without
    # padding holds the two valid examples twice, which leaves mean and variance as they are.
    net, x = network(name), images()
    state = variables(net, x)
    logits, stats = train(net, state, jnp.where(MASK[:, None, None, None], x, filling), MASK)
    expected_logits, expected_stats = train(net, state, x[np.array([0, 0, 3, 3])])
    chex.assert_trees_all_close(logits[MASK], expected_logits[::2], rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(stats, expected_stats, rtol=1e-4, atol=1e-4)


def test_valid_examples_alone_give_the_same():
    net, x = network("mlp"), images()
    state = variables(net, x)
    logits, stats = train(net, state, x, MASK)
    expected_logits, expected_stats = train(net, state, x[MASK])
    chex.assert_trees_all_close(logits[MASK], expected_logits, rtol=1e-4, atol=1e-4)
    chex.assert_trees_all_close(stats, expected_stats, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_a_mask_of_all_examples_is_no_mask(name):
    net, x = network(name), images()
    state = variables(net, x)
    chex.assert_trees_all_close(train(net, state, x, [True] * 4), train(net, state, x), rtol=1e-4, atol=1e-4)
