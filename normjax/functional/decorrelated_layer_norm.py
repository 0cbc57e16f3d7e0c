"""Decorrelated layer normalization: layer norm, then whitening inside each sample."""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from normjax.functional.affine import affine, check_affine
from normjax.functional.groups import gram, groups_of, matmul, times
from normjax.functional.whitening import Method, check_whitening, inverse_sqrt

Mode = Literal["channel", "group"]


def decorrelated_layer_norm(
    x: Inexact[Array, "batch *spatial features"],
    scale: Float[Array, " features"] | None = None,
    bias: Float[Array, " features"] | None = None,
    *,
    group_size: int | None = 16,
    mode: Mode = "channel",
    method: Method = "newton",
    iterations: int = 5,
    epsilon: float = 1e-5,
    shrink: float = 0.0,
    layer_norm: bool = True,
    renormalize: bool = True,
    dtype: Any = None,
) -> Float[Array, "batch *spatial features"]:
    r"""Normalises each sample by layer norm and whitens its channels, apart from all other samples.

    With the sample's mean and variance over all values, :math:`z = (x - \mu) / \sqrt{\sigma^2 + \epsilon}`.
    The vectors :math:`z_g` of each group, their mean over the positions :math:`m_g` and biased covariance
    :math:`\Sigma_g`, shrunk to :math:`\tilde\Sigma_g = (1 - s) \Sigma_g + s\, \mathrm{tr}(\Sigma_g) I / c`,

    .. math:: y_g = (\tilde\Sigma_g + \epsilon I)^{-1/2} (z_g - m_g), \qquad
              \hat y = \gamma \odot y / \sqrt{\overline{y^2} + \epsilon} + \beta,

    with the mean square over the sample, since few iterations of Newton leave large groups below unit
    variance. No state: training equals inference, and a batch of one is as good as any.

    The thesis names the method and gives no formula: what stands here is our reconstruction.

    Args:
      x: real activations, samples along the first axis, features along the last.
      scale: gamma, one entry a feature; None is 1.
      bias: beta, one entry a feature; None is 0.
      group_size: side of the matrices; None is all channels. In mode ``channel`` the neighbouring channels
        that are whitened together, of which the sample should have at least twice as many positions.
      mode: ``channel`` takes the channels of a group as the vector and the positions as its samples;
        ``group`` cuts the channels into ``group_size`` groups of neighbours and takes the groups as the vector,
        all positions and channels of a group as its samples (group whitening), so dense inputs work too.
      method: ``newton`` or ``eigh`` (ZCA).
      iterations: of Newton.
      epsilon: added to variances.
      shrink: share of a multiple of the identity in the covariance, 0 to 1: for few positions.
      layer_norm: whether layer norm comes first.
      renormalize: whether the output of each sample is brought to unit mean square.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``.

    Raises:
      TypeError: the input is complex.
      ValueError: ``group_size`` does not divide the channels, the samples have a single position in mode
        ``channel``, ``scale`` or ``bias`` does not fit, or an option is out of range.

    Example:
      >>> import jax
      >>> x = jax.random.normal(jax.random.key(0), (2, 8, 8, 4)).at[..., 1].add(5.0)
      >>> y = decorrelated_layer_norm(x, group_size=2, method="eigh")
      >>> print(jnp.abs(jnp.cov(y[0, ..., :2].reshape(64, 2).T, bias=True)).round(3))
      [[1. 0.]
       [0. 1.]]

    References:
      Yuan, `Research and application of structure normalization for deep networks`, thesis, Jiangsu
      University, 2022 (the idea).
      Huang, Zhou, Liu, Shao, `Group Whitening <https://arxiv.org/abs/2009.13333>`_, 2021 (mode ``group``).
      Pan, Zhan, Shi, Tang, Luo, `Switchable Whitening <https://arxiv.org/abs/1904.09739>`_, 2019 (instance whitening).
    """
    form = _form(x, group_size, mode, method, iterations, epsilon, shrink)
    check_affine(x, scale, bias)
    vectors = form.vectors(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    mean = vectors.mean(2, keepdims=True)
    centred = vectors - mean
    covariance = gram(centred) / form.samples
    matrix = _whitening_matrix(form, covariance, mean, layer_norm=layer_norm, renormalize=renormalize, shrink=shrink)
    y = form.activations(times(centred, matrix), x.shape)
    return affine(y, scale, bias).astype(dtype or x.dtype)


class _Form(NamedTuple):
    """What is fixed when the normalization is traced."""

    mode: Mode
    grouped: tuple[int, int, int, int]  # batch, positions, groups of channels, channels of one
    method: Method
    iterations: int
    epsilon: float

    @property
    def samples(self) -> int:
        """Vectors that a covariance is taken over."""
        _, positions, _, channels = self.grouped
        return positions if self.mode == "channel" else positions * channels

    def vectors(self, x: Array) -> Array:
        """(batch, matrices, samples, size): the vectors that each matrix whitens, one below the other."""
        batch, positions, groups, channels = self.grouped
        x = x.reshape(self.grouped)
        if self.mode == "channel":
            return jnp.swapaxes(x, 1, 2)
        return jnp.swapaxes(x, 2, 3).reshape(batch, 1, positions * channels, groups)

    def activations(self, vectors: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of ``vectors``."""
        batch, positions, groups, channels = self.grouped
        if self.mode == "channel":
            return jnp.swapaxes(vectors, 1, 2).reshape(shape)
        return jnp.swapaxes(vectors.reshape(batch, positions, channels, groups), 2, 3).reshape(shape)


def _form(
    x: Array, group_size: int | None, mode: str, method: str, iterations: int, epsilon: float, shrink: float
) -> _Form:
    if jnp.iscomplexobj(x):
        raise TypeError(f"decorrelated_layer_norm takes real input; x is {x.dtype}.")
    if mode not in ("channel", "group"):
        raise ValueError(f"mode={mode!r} is not known; use 'channel' or 'group'.")
    check_whitening(method, iterations, epsilon)
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink={shrink} is out of range; use 0 to 1.")
    channels = x.shape[-1]
    others, size = groups_of(channels, group_size)
    positions = math.prod(x.shape[1:-1])
    grouped = (x.shape[0], positions, *((others, size) if mode == "channel" else (size, others)))
    form = _Form(mode, grouped, method, iterations, epsilon)  # type: ignore[arg-type]
    if form.samples == 1:
        if mode == "channel":
            raise ValueError(
                f"mode='channel' whitens over the positions of a sample, and input of shape {x.shape} has one; "
                "use mode='group'."
            )
        raise ValueError(
            f"group_size={size} leaves one value in each group of input of shape {x.shape}; "
            f"use a divisor of {channels} below it."
        )
    return form


def _whitening_matrix(
    form: _Form, covariance: Array, mean: Array, *, layer_norm: bool, renormalize: bool, shrink: float
) -> Array:
    """Layer norm, whitening and renormalisation of each sample in one matrix for its centred values."""
    size = covariance.shape[-1]
    of_sample = tuple(range(1, covariance.ndim))
    trace = jnp.trace(covariance, axis1=-2, axis2=-1)[..., None, None]
    if layer_norm:
        # The variance over all values is that inside the channels and that of their means.
        between = mean - mean.mean((1, 2, 3), keepdims=True)
        variance = trace.mean(of_sample) / size + lax.square(between).mean((1, 2, 3))
        gain = lax.rsqrt(variance + form.epsilon).reshape((-1,) + (1,) * len(of_sample))
        covariance, trace = covariance * lax.square(gain), trace * lax.square(gain)
    shrunk = covariance
    if shrink:
        identity = jnp.eye(size, dtype=covariance.dtype).reshape((1,) * (covariance.ndim - 2) + (size, size))
        shrunk = (1 - shrink) * covariance + (shrink / size) * trace * identity
    matrix = inverse_sqrt(shrunk, form.method, form.iterations, form.epsilon)
    if renormalize:
        # The mean square of the output is the mean of the diagonal of W S W.
        output = matmul(matrix, covariance) * matrix
        power = output.sum((-2, -1), keepdims=True).mean(of_sample, keepdims=True) / size
        matrix = matrix * lax.rsqrt(power + form.epsilon)
    return matrix * gain if layer_norm else matrix
