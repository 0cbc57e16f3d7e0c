"""The weights of torchvision's VGG-16 in ours: the same logits, computed from its layout by SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.signal import correlate2d

from normjax.errors import UserError
from normjax.linen import make_norm
from normjax.models import build_model, vgg
from normjax.training.weights import fitting, read_weights

WIDTHS, DENSE, CLASSES = (2, 3, 2, 3, 2), (5, 4), 3
CONVOLUTIONS = {0: 0, 2: 0, 5: 1, 7: 1, 10: 2, 12: 2, 14: 2, 17: 3, 19: 3, 21: 3, 24: 4, 26: 4, 28: 4}


@pytest.fixture(scope="module")
def tensors():
    """A narrow VGG-16 by torchvision's names: kernels (out, in, height, width), dense layers (out, in)."""
    rng, found, channels = np.random.default_rng(0), {}, 3
    for number, stage in CONVOLUTIONS.items():
        found[f"features.{number}.weight"] = rng.normal(size=(WIDTHS[stage], channels, 3, 3)) / np.sqrt(4 * channels)
        found[f"features.{number}.bias"] = 0.1 * rng.normal(size=WIDTHS[stage])
        channels = WIDTHS[stage]
    sizes = (channels * 49, *DENSE, CLASSES)
    for number, (fan_in, fan_out) in zip((0, 3, 6), itertools.pairwise(sizes), strict=True):
        found[f"classifier.{number}.weight"] = rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in)
        found[f"classifier.{number}.bias"] = 0.1 * rng.normal(size=fan_out)
    return {name: value.astype(np.float32) for name, value in found.items()}


def torchvision(x, tensors):
    """What torchvision computes for one picture (channels, height, width), channels first to the end."""
    for number in CONVOLUTIONS:
        kernels, biases = tensors[f"features.{number}.weight"], tensors[f"features.{number}.bias"]
        x = [sum(correlate2d(a, k, "same") for a, k in zip(x, kernel, strict=True)) for kernel in kernels]
        x = np.maximum(np.stack(x) + biases[:, None, None], 0)
        if number in (2, 7, 14, 21, 28):
            channels, height, width = x.shape
            x = x.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4))
    x = x.reshape(-1)
    for number in (0, 3, 6):
        x = tensors[f"classifier.{number}.weight"] @ x + tensors[f"classifier.{number}.bias"]
        x = x if number == 6 else np.maximum(x, 0)
    return x


def test_logits_are_those_of_torchvision(tensors, tmp_path):
    save_file(tensors, tmp_path / "vgg16.safetensors")
    net = build_model("vgg16", num_classes=CLASSES, norm=make_norm("none"), widths=WIDTHS, dense=DENSE)
    x = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=False))
    flat = fitting(read_weights(tmp_path / "vgg16.safetensors"), shapes, tmp_path)
    params: dict = {}
    for (_, layer, name), leaf in flat.items():
        params.setdefault(layer, {})[name] = jnp.asarray(leaf)
    expected = torchvision(x[0].transpose(2, 0, 1).astype(np.float64), tensors)
    logits = jax.jit(lambda params: net.apply({"params": params}, x, train=False))(params)[0]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert np.ptp(expected) > 1e-2


def test_a_part_of_a_vgg16_is_refused(tensors, tmp_path):
    file = tmp_path / "part.safetensors"
    save_file({name: value for name, value in tensors.items() if name != "features.14.bias"}, file)
    with pytest.raises(UserError, match=r"part\.safetensors is not all of a VGG-16: features\.14\.bias is missing"):
        read_weights(file)
    assert sum(vgg.DEPTHS) == len(CONVOLUTIONS)
