"""Networks that others wrote for flax.linen.BatchNorm: folded, swapped to our norm, measured precisely."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from inference_cases import draw, initialised
from jax_models.models import conv_mixer
from jax_resnet import ResNeSt50, ResNet18, ResNetD50

import normjax
from normjax.tracing import leaf_paths

SMALL = {"n_classes": 10, "hidden_sizes": (8, 8, 16, 16)}
X = (2, 64, 64, 3)


def models(norm=nn.BatchNorm):
    """Name, network, options at inference, norms folded, norms with nothing to fold into."""
    cls = partial(norm, momentum=0.9)
    return {
        "ResNet-18": (ResNet18(norm_cls=cls, **SMALL), {}, 21, 0),
        "ResNet-D 50": (ResNetD50(norm_cls=cls, **SMALL), {}, 53, 0),
        "ResNeSt-50": (ResNeSt50(norm_cls=cls, **SMALL), {}, 69, 0),
        # The norm follows the activation there.
        "ConvMixer": (conv_mixer.ConvMixer(16, num_mixer_layers=2, num_classes=5), {"deterministic": True}, 0, 5),
    }


@pytest.fixture(autouse=True)
def _their_promotion():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", models())
def test_folding_keeps_their_predictions(name):
    model, options, folded, multiply_adds = models()[name]
    x = draw(*X)
    variables = initialised(model, x, **options)
    apply, fewer = normjax.fold(model, variables, x, **options)
    expected = jax.jit(lambda v, x: model.apply(v, x, **options))(variables, x)
    got = jax.jit(apply)(fewer, x)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5 * float(jnp.abs(expected).max()))
    assert (len(apply.folded), len(apply.multiply_adds)) == (folded, multiply_adds)
    assert "batch_stats" not in {path[0] for path in leaf_paths(fewer)}


@pytest.mark.parametrize("name", ["ResNet-18", "ConvMixer"])
def test_our_norm_takes_the_place_of_flaxs(name, monkeypatch):
    # One line: another class. Same variables, and the same numbers in training and at inference.
    model, options, *_ = models()[name]
    x = draw(*X)
    variables = initialised(model, x, **options)
    training = {"deterministic": False} if options else {}
    theirs = model.apply(variables, x, mutable=["batch_stats"], **training)
    theirs_inferred = model.apply(variables, x, **options)
    if name == "ConvMixer":
        monkeypatch.setattr(conv_mixer.nn, "BatchNorm", normjax.BatchNorm)
    swapped = models(normjax.BatchNorm)[name][0]
    ours = swapped.apply(variables, x, mutable=["batch_stats"], **training)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(swapped.apply(variables, x, **options), theirs_inferred, rtol=1e-4, atol=1e-5)


def test_their_statistics_are_measured_without_a_change_of_their_code():
    # One batch, pooled: inference with its statistics is training on it.
    model, *_ = models()["ResNet-18"]
    x = draw(*X)
    variables = initialised(model, x)
    apply, precise = normjax.precise_statistics(model, variables, [x])
    y, _ = model.apply(variables, x, mutable=["batch_stats"])
    chex.assert_trees_all_close(apply(precise, x), y, rtol=1e-3, atol=1e-3)
