"""The networks in NumPy and float64, written from the papers and not from normjax.

Each takes images, parameters and running statistics; without statistics it normalises by the batch.
"""

import numpy as np
from model_cases import EPSILON


def conv(x, kernel, stride=1):
    """Kernels of odd size, padded by half of it."""
    margin = len(kernel) // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))[:, ::stride, ::stride]
    return np.einsum("nyxcij,ijcd->nyxd", windows, kernel)


def max_pool(x):
    """3x3 with stride 2; the margin never wins."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2].max((-2, -1))


def relu(x):
    return np.maximum(x, 0)


class Layers:
    """The layers of one network by name."""

    def __init__(self, params, stats):
        self.params, self.stats = params, stats

    def norm(self, x, name):
        axes = tuple(range(x.ndim - 1))
        stats = self.stats[name] if self.stats else {"mean": x.mean(axes), "var": x.var(axes)}
        normalised = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON)
        return normalised * self.params[name]["scale"] + self.params[name]["bias"]

    def conv(self, x, name, stride=1):
        return conv(x, self.params[name]["kernel"], stride)

    def dense(self, x, name):
        return x @ self.params[name]["kernel"]

    def head(self, x):
        return self.dense(x, "head") + self.params["head"]["bias"]


def mlp(x, params, stats):
    layers = Layers(params, stats)
    x = x.reshape(len(x), -1)
    for i in range(2):
        x = relu(layers.norm(layers.dense(x, f"dense{i}"), f"norm{i}"))
    return layers.head(x)


def convnet(x, params, stats, depths=(2, 2), dense=1):
    layers = Layers(params, stats)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            x = relu(layers.norm(layers.conv(x, f"conv{stage}_{i}"), f"norm{stage}_{i}"))
        n, height, width, channels = x.shape
        if height > 1:  # a single pixel has nothing to pool
            x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
    x = x.reshape(len(x), -1)
    for i in range(dense):
        x = relu(layers.norm(layers.dense(x, f"dense{i}"), f"dense_norm{i}"))
    return layers.head(x)


def vgg16(x, params, stats):
    return convnet(x, params, stats, (2, 2, 3, 3, 3), 2)


def resnet20(x, params, stats, blocks=3):
    layers = Layers(params, stats)
    x = relu(layers.norm(layers.conv(x, "stem"), "stem_norm"))
    for stage in range(3):
        for i in range(blocks):
            name, stride = f"stage{stage}_block{i}", 2 if stage and not i else 1
            y = relu(layers.norm(layers.conv(x, f"{name}_conv0", stride), f"{name}_norm0"))
            y = layers.norm(layers.conv(y, f"{name}_conv1"), f"{name}_norm1")
            more = y.shape[-1] - x.shape[-1]  # option A: every other pixel, channels of zeros on both sides
            x = relu(y + np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (more // 2, more // 2))))
    return layers.head(x.mean((1, 2)))


def resnet56(x, params, stats):
    return resnet20(x, params, stats, blocks=9)


def resnet50(x, params, stats):
    layers = Layers(params, stats)
    x = max_pool(relu(layers.norm(layers.conv(x, "stem", 2), "stem_norm")))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for i in range(blocks):
            name, stride = f"stage{stage}_block{i}", 2 if stage and not i else 1
            y = relu(layers.norm(layers.conv(x, f"{name}_conv0"), f"{name}_norm0"))
            y = relu(layers.norm(layers.conv(y, f"{name}_conv1", stride), f"{name}_norm1"))
            y = layers.norm(layers.conv(y, f"{name}_conv2"), f"{name}_norm2")
            if not i:
                x = layers.norm(layers.conv(x, f"{name}_shortcut", stride), f"{name}_shortcut_norm")
            x = relu(y + x)
    return layers.head(x.mean((1, 2)))
