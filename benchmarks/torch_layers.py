"""The layers as one would write them in PyTorch: batched products, Newton's iteration with baddbmm."""

from typing import Any

import torch
from torch import nn


def build(layer: str, channels: int, dimensions: int) -> nn.Module:
    """The PyTorch module for a layer of the benchmark."""
    if layer == "reference":
        return reference(channels)
    if layer == "batch-norm":
        return nn.BatchNorm2d(channels) if dimensions == 4 else nn.BatchNorm1d(channels)
    return InstanceWhitening(channels) if layer == "decorrelated-layer-norm" else IterNorm(channels)


def reference(channels: int) -> nn.Module:
    """IterNorm as its authors published it, from the search path."""
    from iterative_normalization import IterNorm  # type: ignore[import-not-found]

    module = IterNorm(channels, num_channels=16, T=5)
    # It expands one identity matrix over the groups, which PyTorch has since refused to write to.
    module.running_wm = module.running_wm.clone()
    return module


def newton(covariance: torch.Tensor, iterations: int) -> torch.Tensor:
    """The uncoupled iteration, as the reference codes have it, on a batch of matrices."""
    size = covariance.shape[-1]
    identity = torch.eye(size).expand_as(covariance)
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    normalised = covariance / trace
    p = identity
    for _ in range(iterations):
        p = torch.baddbmm(p, torch.bmm(torch.bmm(p, p), p), normalised, beta=1.5, alpha=-0.5)
    return p * trace.rsqrt()


class InstanceWhitening(nn.Module):
    """Layer norm, then whitening of groups of channels inside each sample, brought to unit mean square."""

    def __init__(self, channels: int, group_size: int = 16, iterations: int = 5, eps: float = 1e-5):
        super().__init__()
        self.group_size, self.iterations, self.eps = group_size, iterations, eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.shape
        z = torch.nn.functional.layer_norm(x, x.shape[1:], eps=self.eps)
        z = z.reshape(n * c // self.group_size, self.group_size, h * w)
        z = z - z.mean(-1, keepdim=True)
        identity = torch.eye(self.group_size).expand(z.shape[0], -1, -1)
        covariance = torch.baddbmm(identity, z, z.transpose(1, 2), beta=self.eps, alpha=1 / (h * w))
        y = torch.bmm(newton(covariance, self.iterations), z).reshape(n, c, h, w)
        y = y * (y.square().mean((1, 2, 3), keepdim=True) + self.eps).rsqrt()
        return y * self.weight + self.bias


class IterNorm(nn.Module):
    """Whitening of groups of channels over the batch, with running mean and covariance."""

    def __init__(self, channels: int, group_size: int = 16, iterations: int = 5, eps: float = 1e-5):
        super().__init__()
        self.group_size, self.iterations, self.eps = group_size, iterations, eps
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("mean", torch.zeros(channels // group_size, group_size, 1))
        self.register_buffer("covariance", torch.eye(group_size).repeat(channels // group_size, 1, 1))

    def forward(self, x: Any) -> Any:
        n, c, h, w = x.shape
        groups = c // self.group_size
        z = x.transpose(0, 1).reshape(groups, self.group_size, n * h * w)
        mean = z.mean(-1, keepdim=True)
        z = z - mean
        identity = torch.eye(self.group_size).expand(groups, -1, -1)
        covariance = torch.baddbmm(identity, z, z.transpose(1, 2), beta=self.eps, alpha=1 / z.shape[-1])
        with torch.no_grad():
            self.mean.lerp_(mean, 0.01)
            self.covariance.lerp_(covariance, 0.01)
        y = torch.bmm(newton(covariance, self.iterations), z).reshape(c, n, h, w).transpose(0, 1)
        return y * self.weight + self.bias
