"""Ghost batch normalization: each part of the batch by its own statistics."""

from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Bool, Inexact

from normjax.functional.batch_norm import batch_norm
from normjax.functional.moments import (
    AxisIndexGroups,
    AxisName,
    Moments,
    canonical_axes,
    expand_mask,
    merge_devices,
    merge_stacked,
)


def ghost_batch_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "*features"] | None = None,
    bias: Inexact[Array, "*features"] | None = None,
    *,
    ghost_batch_size: int,
    axis: int | Sequence[int] = -1,
    mask: Bool[Array, "..."] | None = None,
    epsilon: float = 1e-5,
    axis_name: AxisName = None,
    axis_index_groups: AxisIndexGroups = None,
    use_fast_variance: bool = True,
    dtype: Any = None,
) -> tuple[Inexact[Array, "..."], Moments]:
    r"""Batch normalization of consecutive parts of the batch, each by its own mean and variance.

    With the examples :math:`B_k` from :math:`kg` to :math:`(k + 1) g - 1` and all parts sharing the
    affine parameters,

    .. math:: y_i = \gamma\, \frac{x_i - \mu_{B_k}}{\sqrt{\sigma_{B_k}^2 + \epsilon}} + \beta, \qquad i \in B_k.

    The noise of small batches regularises, whatever the size of the batch. TensorFlow calls this
    "virtual batch size"; the virtual batch normalization of Salimans et al. is another thing.

    Args:
      x: activations, examples along the first axis, features along ``axis``.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      ghost_batch_size: examples of each part; must divide the batch of the device.
      axis: the feature axis or axes, not the first.
      mask: broadcastable to ``x``, True where a value counts for the statistics.
      epsilon: added to the variance.
      axis_name: the mapped axis whose devices share the returned moments; each normalises its own parts.
      axis_index_groups: groups of equal size within ``axis_name`` that share instead of all.
      use_fast_variance: one shifted pass for the variance (True), or two passes.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``, and the moments of all parts (of all devices) merged.

    Raises:
      ValueError: ``ghost_batch_size`` does not divide the batch, ``axis`` names the first axis, or as
        ``batch_norm``.

    Example:
      >>> import jax.numpy as jnp
      >>> y, stats = ghost_batch_norm(jnp.array([[1.0], [3.0], [5.0], [9.0]]), ghost_batch_size=2, epsilon=0.0)
      >>> print(y.ravel(), stats.count, stats.mean)
      [-1.  1. -1.  1.] [4.] [4.5]

    References:
      Hoffer, Hubara, Soudry, `Train longer, generalize better: closing the generalization gap in large
      batch training of neural networks <https://arxiv.org/abs/1705.08741>`_, 2017.
    """
    if 0 in (features := canonical_axes(x.ndim, axis)):
        raise ValueError(f"axis={axis} names the first axis, that of the examples; use 1 to {x.ndim - 1}.")
    parts = _parts(x.shape[0], ghost_batch_size)
    mask = expand_mask(mask, x)

    def split(array: Array) -> Array:
        return array.reshape(parts, ghost_batch_size, *array.shape[1:])

    def normalise(x: Array, mask: Array | None) -> tuple[Array, Moments]:
        return batch_norm(
            x,
            scale,
            bias,
            axis=features,
            mask=mask,
            epsilon=epsilon,
            use_fast_variance=use_fast_variance,
            dtype=dtype,
        )

    # A mask that is the same for all examples is the same for all parts.
    shared = mask is None or mask.shape[0] != x.shape[0]
    masks = mask if mask is None or shared else split(mask)
    y, stats = jax.vmap(normalise, in_axes=(0, None if shared else 0))(split(x), masks)
    merged = merge_stacked(stats)
    if axis_name is not None:
        merged = merge_devices(merged, axis_name, axis_index_groups, counts_differ=mask is not None)
    return y.reshape(x.shape), merged


def _parts(examples: int, size: int) -> int:
    if size < 1 or examples % size:
        allowed = ", ".join(str(n) for n in range(1, examples + 1) if examples % n == 0)
        raise ValueError(
            f"ghost_batch_size={size} does not divide the {examples} examples of the batch; use one of {allowed}."
        )
    return examples // size
