"""What build_model refuses, and that it says what is allowed."""

import jax
import pytest
from model_cases import images

from normjax.linen import make_norm
from normjax.models import build_model


def build(name, **options):
    return build_model(name, num_classes=4, norm=make_norm("batch_norm"), **options)


def test_an_unknown_network_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"'resnet18' is not known; use mlp, convnet, vgg16, resnet20, resnet56 or resnet50"
    ):
        build("resnet18")


@pytest.mark.parametrize("name", ["resnet20", "resnet56"])
def test_widths_that_decrease_are_refused_where_shortcuts_are_padded(name):
    # A shortcut can be padded with zeros, but not be made narrower.
    with pytest.raises(ValueError, match=rf"widths=\(16, 8, 64\) must not decrease: {name} pads"):
        build(name, widths=(16, 8, 64))
    build(name, widths=(8, 8, 8))


@pytest.mark.parametrize("widths", [(), (8, 8)])
def test_another_number_of_stages_is_refused_by_vgg16(widths):
    with pytest.raises(ValueError, match=rf"has {len(widths)} stages; vgg16 has 5"):
        build("vgg16", widths=widths)


@pytest.mark.parametrize("widths", [(), (8,), (8, 8, 8, 8, 8)])
def test_another_number_of_stages_is_refused_by_resnet50(widths):
    with pytest.raises(ValueError, match=rf"has {len(widths)} stages; resnet50 has 4"):
        build("resnet50", widths=widths)


def test_widths_that_do_not_suit_are_refused_before_the_first_step():
    # A residual network has a stem, as wide as its first stage.
    with pytest.raises(ValueError, match=r"widths=\(\)"):
        jax.eval_shape(lambda: build("resnet20", widths=()).init(jax.random.key(0), images(), train=False))
