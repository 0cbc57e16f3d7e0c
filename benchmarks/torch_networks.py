"""ResNet-20, the ConvNet and ResNet-50 in PyTorch, as normjax has them."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)


def conv_norm(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, size, stride), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x))."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class PaddedShortcut(nn.Module):
    """Every other pixel, with channels of zeros on both sides."""

    def __init__(self, missing: int):
        super().__init__()
        self.missing = missing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.missing // 2, self.missing // 2))


def resnet20(widths: Sequence[int] = (16, 32, 64)) -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, widths[0], 3), nn.ReLU()]
    inputs = widths[0]
    for width in widths:
        for _ in range(3):
            stride = 1 if width == inputs else 2
            branch = nn.Sequential(conv_norm(inputs, width, 3, stride), nn.ReLU(), conv_norm(width, width, 3))
            layers.append(Residual(branch, nn.Identity() if stride == 1 else PaddedShortcut(width - inputs)))
            inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def convnet(widths: Sequence[int] = (32, 64, 128), dense: Sequence[int] = (128, 128), side: int = 32) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for width in widths:
        layers += [conv_norm(inputs, width, 3), nn.ReLU(), conv_norm(width, width, 3), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = width
    layers.append(nn.Flatten())
    inputs *= (side // 2 ** len(widths)) ** 2
    for width in dense:
        layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def resnet50() -> nn.Module:
    layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, blocks, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(blocks):
            stride = first if i == 0 else 1
            branch = nn.Sequential(
                conv_norm(inputs, width, 1),
                nn.ReLU(),
                conv_norm(width, width, 3, stride),
                nn.ReLU(),
                conv_norm(width, 4 * width, 1),
            )
            layers.append(Residual(branch, nn.Identity() if i else conv_norm(inputs, 4 * width, 1, stride)))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))
