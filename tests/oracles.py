"""What the layers should compute, in plain NumPy and float64, written from the papers and not from normjax."""

from typing import Any, NamedTuple

import numpy as np


class Oracle(NamedTuple):
    """Count, mean and sum of squared deviations, in the order of ``normjax.functional.Moments``."""

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray


def widen(x: Any) -> np.ndarray:
    """The same values in float64, or complex128."""
    x = np.asarray(x)
    return x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)


def numpy_moments(x: Any, axes: tuple[int, ...], mask: Any = None) -> Oracle:
    """Moments of the values where the mask is True, one feature after the other; zeros where there is none."""
    x, inside = _columns(widen(x), axes), _columns(_full_mask(x, mask), axes)
    features = x.shape[1:]
    count, mean, m2 = np.zeros(features), np.zeros(features, x.dtype), np.zeros(features)
    for index in np.ndindex(features):
        values = x[:, *index][inside[:, *index]]
        if values.size:
            count[index], mean[index] = values.size, values.mean()
            m2[index] = (np.abs(values - values.mean()) ** 2).sum()
    return Oracle(count, mean, m2)


def numpy_variance(x: Any, axes: tuple[int, ...], mask: Any = None) -> np.ndarray:
    """Biased variance, as Algorithm 1 normalises by."""
    count, _, m2 = numpy_moments(x, axes, mask)
    return m2 / np.maximum(count, 1)


def numpy_batch_norm(
    x: Any, scale: Any = None, bias: Any = None, *, axes: tuple[int, ...], mask: Any = None, epsilon: float = 1e-5
) -> np.ndarray:
    """Algorithm 1, ``axes`` being those reduced; a masked-out value is normalised too, or is the mean if not finite."""
    standard, _ = _standard(x, axes, mask, epsilon)
    return standard * _spread(scale, axes, 1) + _spread(bias, axes, 0)


def numpy_batch_norm_gradients(
    x: Any, upstream: Any, scale: Any = None, *, axes: tuple[int, ...], mask: Any = None, epsilon: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chain rule of the paper's section 3, through the variance and the mean, for x, scale and bias; real input.

    A masked-out value has an output of its own, but no share in the mean and the variance.
    """
    standard, inverse = _standard(x, axes, mask, epsilon)
    inside, upstream = _full_mask(x, mask), widen(upstream)
    count = np.maximum(inside.sum(axes, keepdims=True), 1)
    centred = standard / inverse
    by_standard = np.where(np.isfinite(widen(x)), upstream, 0) * _spread(scale, axes, 1)
    by_variance = (by_standard * centred).sum(axes, keepdims=True) * -0.5 * inverse**3
    by_mean = -by_standard.sum(axes, keepdims=True) * inverse
    by_x = by_standard * inverse + np.where(inside, by_variance * 2 * centred / count + by_mean / count, 0)
    return by_x, (upstream * standard).sum(axes), upstream.sum(axes)


def _standard(x: Any, axes: tuple[int, ...], mask: Any, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    count, mean, m2 = numpy_moments(x, axes, mask)
    inverse = 1 / np.sqrt(np.expand_dims(m2 / np.maximum(count, 1), axes) + epsilon)
    x, mean = widen(x), np.expand_dims(mean, axes)
    return (np.where(np.isfinite(x), x, mean) - mean) * inverse, inverse


def _full_mask(x: Any, mask: Any) -> np.ndarray:
    return np.broadcast_to(True if mask is None else np.asarray(mask, bool), np.shape(x))


def _columns(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The reduced axes as one, in front of the features."""
    x = np.moveaxis(x, axes, range(len(axes)))
    return x.reshape(-1, *x.shape[len(axes) :])


def _spread(feature: Any, axes: tuple[int, ...], default: float) -> np.ndarray:
    return np.asarray(default) if feature is None else np.expand_dims(widen(feature), axes)
