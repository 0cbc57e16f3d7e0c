"""Each network under each norm: what an example's logits depend on, in training and in evaluation.

In float64: with four images and 53 norms, rounding the input of ResNet-50 to float32 moves its logits by 1e-3 in
evaluation, so that a bound in float32 held on processors with AVX-512 and failed on others.
"""

from functools import partial

import chex
import jax
import numpy as np
import pytest
from model_cases import FORMS, NETWORKS, NORMS, evaluate, images, train, variables
from model_cases import network as network_of_type

TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}  # a thousand times what rounding does to ResNet-50
network = partial(network_of_type, dtype="float64")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def others_changed(x):
    return x.at[1:].set(images(seed=9)[1:] + 1)


# Of the input hardly anything is left behind thirteen narrow layers with statistics that are drawn: not vgg16.
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", [*FORMS, "resnet56"])
def test_evaluation_treats_each_example_by_itself(name, norm):
    # A norm left in training mode would bring the others in.
    net, x = network(name, norm), images()
    state = variables(net, x)
    before, after = evaluate(net, state, x), evaluate(net, state, others_changed(x))
    chex.assert_trees_all_close(after[0], before[0], **TOLERANCE)
    assert np.abs(after[1:] - before[1:]).max(axis=1).min() > 1e-2  # those that changed


@pytest.mark.parametrize("name", NETWORKS)
def test_batch_norm_lets_examples_see_each_other_in_training(name):
    net, x = network(name), images()
    state = variables(net, x)
    before, after = train(net, state, x)[0], train(net, state, others_changed(x))[0]
    assert np.abs(before[0] - after[0]).max() > 1e-2


@pytest.mark.parametrize("norm", ["layer_norm", "group_norm"])
@pytest.mark.parametrize("name", FORMS)
def test_norms_of_single_examples_train_as_they_evaluate_and_take_no_notice_of_a_mask(name, norm):
    net, x = network(name, norm), images()
    state = variables(net, x)
    expected = evaluate(net, state, x)
    for mask in (None, [True, False, True, False]):
        logits, stats = train(net, state, x, mask)
        chex.assert_trees_all_close(logits, expected, **TOLERANCE)
        assert stats == {}


@pytest.mark.parametrize("name", FORMS)
def test_running_statistics_are_those_training_computed_mixed_by_the_momentum(name):
    net, x = network(name, momentum=0.0), images()
    state = variables(net, x)
    logits, batch = train(net, state, x)
    # With momentum 0 they are those of the last batch: every norm layer must have kept its own.
    chex.assert_trees_all_close(evaluate(net, {**state, "batch_stats": batch}, x), logits, **TOLERANCE)
    _, moved = train(network(name, momentum=0.75), state, x)
    expected = {
        layer: {key: 0.75 * old[key] + 0.25 * batch[layer][key] for key in old}
        for layer, old in state["batch_stats"].items()
    }
    chex.assert_trees_all_close(moved, expected, **TOLERANCE)
