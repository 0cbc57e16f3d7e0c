"""Decorrelated layer normalization: layer norm, then whitening inside each sample."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact

from normjax.functional import groups, lanes
from normjax.functional.affine import affine, check_affine
from normjax.functional.decorrelated_layer_norm_kernel import (
    Whitening,
    check_kernel,
    normalize_samples,
    normalize_samples_transposed,
)
from normjax.functional.groups import groups_of
from normjax.functional.moments import statistics_dtype
from normjax.functional.whitening import Method, check_whitening, inverse_root, inverse_sqrt, trace_of

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
    tpu_kernel: bool = False,
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
      tpu_kernel: whether TPUs run one Pallas kernel each way, which reads each sample once, in place of XLA's
        program; other platforms compute what they would without. Mode ``channel`` and ``newton`` only, first
        derivatives in reverse only, exported for one platform at a time; made for 128 channels or more.
      dtype: type of the output; None is the type of ``x``. Statistics are at least float32.

    Returns:
      The normalised activations, shape of ``x``.

    Raises:
      TypeError: the input is complex or of integers.
      ValueError: ``group_size`` does not divide the channels, the samples have a single position in mode
        ``channel``, ``scale`` or ``bias`` does not fit, the kernel does not take the input, or an option is out
        of range.

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
    form = _form(x, group_size, mode, method, iterations, epsilon, shrink, layer_norm, renormalize)
    check_affine(x, scale, bias)
    wide = x.astype(statistics_dtype(x.dtype))
    if tpu_kernel and x.shape[0]:
        _check_kernel(form, wide.dtype)
        gain, shift = _filled(scale, 1, wide), _filled(bias, 0, wide)
        return _by_kernel(form, wide, gain, shift).astype(dtype or x.dtype)
    return affine(_by_products(form, wide), scale, bias).astype(dtype or x.dtype)


class _Form(NamedTuple):
    """What is fixed when the normalization is traced."""

    mode: Mode
    grouped: tuple[int, int, int, int]  # batch, positions, groups of channels, channels of one
    method: Method
    iterations: int
    epsilon: float
    shrink: float
    layer_norm: bool
    renormalize: bool

    @property
    def samples(self) -> int:
        """Vectors that a covariance is taken over."""
        _, positions, _, channels = self.grouped
        return positions if self.mode == "channel" else positions * channels

    @property
    def whitening(self) -> Whitening:
        """What the TPU kernel is compiled for."""
        size = self.grouped[3]
        return Whitening(size, self.iterations, self.epsilon, self.shrink, self.layer_norm, self.renormalize)

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


class _Products(NamedTuple):
    """How vectors and small matrices are multiplied: what is fast differs between platforms."""

    gram: Callable[[Array], Array]
    times: Callable[[Array, Array], Array]
    matmul: Callable[[Array, Array], Array]
    inverse_sqrt: Callable[[Array, Method, int, float], Array]


_BY_ROWS = _Products(groups.gram, groups.times, groups.matmul, inverse_sqrt)
_BY_LANES = _Products(lanes.gram, lanes.times, lanes.matmul, lanes.inverse_sqrt)


def _by_products(form: _Form, x: Array) -> Array:
    return lax.platform_dependent(
        x, tpu=partial(_decorrelate, form, _BY_LANES), default=partial(_decorrelate, form, _BY_ROWS)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_kernel(form: _Form, x: Array, scale: Array, bias: Array) -> Array:
    return lax.platform_dependent(
        x, scale, bias, tpu=partial(normalize_samples, form.whitening), default=partial(_by_rows, form)
    )


def _by_kernel_forward(form: _Form, *arguments: Array) -> tuple[Array, tuple[Array, ...]]:
    return _by_kernel(form, *arguments), arguments


def _by_kernel_backward(form: _Form, arguments: tuple[Array, ...], g: Array) -> tuple[Array, ...]:
    return lax.platform_dependent(
        *arguments,
        g,
        tpu=partial(normalize_samples_transposed, form.whitening),
        default=lambda x, scale, bias, g: jax.vjp(partial(_by_rows, form), x, scale, bias)[1](g),
    )


_by_kernel.defvjp(_by_kernel_forward, _by_kernel_backward)


def _by_rows(form: _Form, x: Array, scale: Array, bias: Array) -> Array:
    return affine(_decorrelate(form, _BY_ROWS, x), scale, bias)


def _decorrelate(form: _Form, products: _Products, x: Array) -> Array:
    mean, centred = groups.centre(form.vectors(x))
    matrix = _whitening_matrix(form, products, products.gram(centred) / form.samples, mean)
    return form.activations(products.times(centred, matrix), x.shape)


def _form(
    x: Array,
    group_size: int | None,
    mode: str,
    method: str,
    iterations: int,
    epsilon: float,
    shrink: float,
    layer_norm: bool,
    renormalize: bool,
) -> _Form:
    if jnp.iscomplexobj(x):
        raise TypeError(f"decorrelated_layer_norm takes real input; x is {x.dtype}.")
    if mode not in ("channel", "group"):
        raise ValueError(f"mode={mode!r} is not known; use 'channel' or 'group'.")
    if x.ndim < 2:
        raise ValueError(
            f"x of shape {x.shape} has no axis of samples; decorrelated_layer_norm takes (batch, ..., features)."
        )
    check_whitening(method, iterations, epsilon)
    if not 0 <= shrink <= 1:
        raise ValueError(f"shrink={shrink} is out of range; use 0 to 1.")
    channels = x.shape[-1]
    others, size = groups_of(channels, group_size)
    positions = math.prod(x.shape[1:-1])
    grouped = (x.shape[0], positions, *((others, size) if mode == "channel" else (size, others)))
    form = _Form(mode, grouped, method, iterations, epsilon, shrink, layer_norm, renormalize)  # type: ignore[arg-type]
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


def _filled(parameter: Array | None, default: int, x: Array) -> Array:
    return jnp.full(x.shape[-1:], default, x.dtype) if parameter is None else parameter.astype(x.dtype)


def _check_kernel(form: _Form, dtype: Any) -> None:
    if dtype != jnp.float32:
        raise ValueError(f"tpu_kernel=True takes float32 and half precision; x is {dtype}.")
    for name, value, only in (("mode", form.mode, "channel"), ("method", form.method, "newton")):
        if value != only:
            raise ValueError(f"tpu_kernel=True takes {name}={only!r} only; {name} is {value!r}.")
    _, positions, groups, size = form.grouped
    check_kernel(positions, groups * size, size)


def _whitening_matrix(form: _Form, products: _Products, covariance: Array, mean: Array) -> Array:
    """Layer norm, whitening and renormalisation of each sample in one matrix for its centred values."""
    size = covariance.shape[-1]
    of_sample = tuple(range(1, covariance.ndim))
    trace = trace_of(covariance)
    if form.layer_norm:
        # The variance over all values is that inside the channels and that of their means.
        between = mean - mean.mean((1, 2, 3), keepdims=True)
        variance = trace.mean(of_sample) / size + lax.square(between).mean((1, 2, 3))
        gain = inverse_root(variance + form.epsilon).reshape((-1,) + (1,) * len(of_sample))
        covariance, trace = covariance * lax.square(gain), trace * lax.square(gain)
    shrunk = covariance
    if form.shrink:
        identity = jnp.eye(size, dtype=covariance.dtype).reshape((1,) * (covariance.ndim - 2) + (size, size))
        shrunk = (1 - form.shrink) * covariance + (form.shrink / size) * trace * identity
    matrix = products.inverse_sqrt(shrunk, form.method, form.iterations, form.epsilon)
    if form.renormalize:
        # The mean square of the output is the mean of the diagonal of W S W.
        output = products.matmul(matrix, covariance) * matrix
        power = output.sum((-2, -1), keepdims=True).mean(of_sample, keepdims=True) / size
        matrix = matrix * inverse_root(power + form.epsilon)
    return matrix * gain if form.layer_norm else matrix
