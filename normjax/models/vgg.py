"""VGG-16, and its ImageNet weights as they are handed around."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from normjax.models.common import HEAD
from normjax.models.convnet import ConvNet

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage
WIDTHS = (64, 128, 256, 512, 512)
DENSE = (4096, 4096)
_SIDE = 7  # of the last feature map, for images of 224 pixels


def vgg16(*, widths: tuple[int, ...] = WIDTHS, dense: tuple[int, ...] = DENSE, **options: Any) -> ConvNet:
    """VGG-16: thirteen convolutions in five stages and two hidden dense layers; without the dropout of the paper.

    With the norm ``none`` it is the network of the paper; its biases are then those of the norms.

    Args:
      widths: channels of each of the five stages.
      dense: units of each hidden dense layer.
      **options: further fields of ``ConvNet``.

    Raises:
      ValueError: there are not five stages.

    References:
      Simonyan, Zisserman, `Very Deep Convolutional Networks for Large-Scale Image Recognition
      <https://arxiv.org/abs/1409.1556>`_, 2015, configuration D.
    """
    if len(widths) != len(DEPTHS):
        raise ValueError(
            f"widths={tuple(widths)} has {len(widths)} stages; vgg16 has {len(DEPTHS)}; "
            "leave widths out for the published ones."
        )
    return ConvNet(widths=widths, dense=dense, depths=DEPTHS, **options)


def from_torchvision(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The weights of torchvision's ``vgg16``, by the names of ours.

    Kernels are (height, width, in, out) here and (out, in, height, width) there; the first dense layer reads its
    feature map by channels there, by positions here.

    Args:
      tensors: ``features.0.weight`` to ``classifier.6.bias``.

    Returns:
      ``params/conv0_0/kernel`` to ``params/head/bias``.

    Raises:
      KeyError: one of them is missing.
    """
    found: dict[str, np.ndarray] = {}
    number = 0  # convolution, relu, convolution, relu, pooling
    for stage, depth in enumerate(DEPTHS):
        for i in range(depth):
            kernel = np.asarray(tensors[f"features.{number}.weight"])
            found[f"params/conv{stage}_{i}/kernel"] = kernel.transpose(2, 3, 1, 0)
            found[f"params/norm{stage}_{i}/bias"] = np.asarray(tensors[f"features.{number}.bias"])
            number += 2
        number += 1
    for number, kernel_of, bias_of in ((0, "dense0", "dense_norm0"), (3, "dense1", "dense_norm1"), (6, HEAD, HEAD)):
        weight = np.asarray(tensors[f"classifier.{number}.weight"])
        if number == 0:
            weight = weight.reshape(len(weight), -1, _SIDE, _SIDE).transpose(0, 2, 3, 1).reshape(len(weight), -1)
        found[f"params/{kernel_of}/kernel"] = weight.T
        found[f"params/{bias_of}/bias"] = np.asarray(tensors[f"classifier.{number}.bias"])
    return found
