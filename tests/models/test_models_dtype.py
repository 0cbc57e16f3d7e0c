"""Computation in bfloat16: parameters, statistics and logits stay float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_cases import FORMS, evaluate, images, network, train, variables


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "batch_norm") for name in FORMS), ("mlp", "layer_norm"), ("mlp", "group_norm")]
)
def test_parameters_statistics_and_logits_are_float32(name, norm):
    net, x = network(name, norm, dtype="bfloat16"), images()
    state = variables(net, x)
    outputs = jax.eval_shape(lambda: (train(net, state, x), evaluate(net, state, x)))
    assert {leaf.dtype for leaf in jax.tree.leaves((state, outputs))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", FORMS)
def test_every_convolution_and_hidden_product_is_in_bfloat16(name):
    # One float32 tensor on the way would promote all that follows.
    net, x = network(name, dtype="bfloat16"), images()
    state = variables(net, x)
    jaxpr = jax.make_jaxpr(lambda state, x: net.apply(state, x, train=False))(state, x)
    heavy = [e for e in jaxpr.eqns if e.primitive.name in ("conv_general_dilated", "dot_general")]
    kinds = [str(equation.invars[0].aval.dtype) for equation in heavy]
    assert kinds == ["bfloat16"] * (len(heavy) - 1) + ["float32"]  # the head is float32


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_results_are_those_of_float32_to_the_precision_of_bfloat16(name):
    x = images()
    half, full = network(name, dtype="bfloat16"), network(name)
    state = variables(full, x)
    logits, expected = evaluate(half, state, x), evaluate(full, state, x)
    chex.assert_trees_all_close(logits, expected, atol=0.05 * float(np.abs(expected).max()))
    assert np.abs(logits - expected).max() > 1e-5
