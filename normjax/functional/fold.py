"""Folding batch normalization into the linear layer before it."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def fold_batch_norm(
    kernel: Float[Array, "..."],
    bias: Float[Array, " features"] | None,
    mean: Float[Array, " features"],
    variance: Float[Array, " features"],
    norm_scale: Float[Array, " features"] | None = None,
    norm_bias: Float[Array, " features"] | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> tuple[Float[Array, "..."], Float[Array, " features"]]:
    r"""Kernel and bias of the linear layer that does what a linear layer and batch normalization do.

    With :math:`s = \gamma / \sqrt{\sigma^2 + \epsilon}`,

    .. math:: W' = s\, W, \qquad b' = s\, (b - \mu) + \beta.

    Args:
      kernel: kernel of the Dense or Conv, its outputs along ``axis``.
      bias: its bias, one entry an output; None is 0.
      mean: running mean, one entry an output.
      variance: running variance, one entry an output.
      norm_scale: gamma; None is 1.
      norm_bias: beta; None is 0.
      axis: the outputs' axis of the kernel: -1 in Flax.
      epsilon: added to the variance.

    Returns:
      The new kernel and bias.

    Raises:
      ValueError: a parameter has another shape than the outputs of the kernel, or epsilon is negative.

    Example:
      >>> kernel, bias = fold_batch_norm(jnp.ones((2, 1)), None, jnp.array([3.0]), jnp.array([4.0]), epsilon=0.0)
      >>> print(kernel.ravel(), bias)
      [0.5 0.5] [-1.5]

    References:
      Jacob et al., `Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
      Inference <https://arxiv.org/abs/1712.05877>`_, 2018, section 3.2.
    """
    if epsilon < 0:
        raise ValueError(f"epsilon={epsilon} is negative; use 0 or more.")
    if not -kernel.ndim <= axis < kernel.ndim:
        raise ValueError(f"axis={axis} out of range for a kernel of {kernel.ndim} dimensions.")
    outputs = kernel.shape[axis]
    given = {"bias": bias, "mean": mean, "variance": variance, "norm_scale": norm_scale, "norm_bias": norm_bias}
    for name, value in given.items():
        if value is not None and value.shape != (outputs,):
            raise ValueError(f"{name} of shape {value.shape} does not fit the {outputs} outputs of the kernel.")
    gain = lax.rsqrt(variance + epsilon)
    if norm_scale is not None:
        gain = gain * norm_scale
    shift = -mean if bias is None else bias - mean
    offset = gain * shift
    if norm_bias is not None:
        offset = offset + norm_bias
    others = tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim)
    return kernel * jnp.expand_dims(gain, others), offset
