"""Making the scores of different layers comparable, so that all can be ranked together."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def _over(scores: np.ndarray, by: Any) -> np.ndarray:
    """Divided, but where all are 0: no floor, as squared derivatives may be of any size."""
    return np.divide(scores, by, out=np.zeros_like(scores), where=np.asarray(by) > 0)


def none(scores: np.ndarray) -> np.ndarray:
    """The scores as they are."""
    return scores


def mean(scores: np.ndarray) -> np.ndarray:
    r""":math:`s / \mathrm{mean}(s)`: whatever the width, a typical neuron has 1."""
    return _over(scores, scores.mean())


def l2(scores: np.ndarray) -> np.ndarray:
    r""":math:`s / \|s\|_2` (Molchanov et al., 2017): a typical neuron of n has :math:`1/\sqrt n`, so wide layers go."""
    return _over(scores, np.linalg.norm(scores))


def largest(scores: np.ndarray) -> np.ndarray:
    r""":math:`s / \max(s)`."""
    return _over(scores, scores.max())


def zscore(scores: np.ndarray) -> np.ndarray:
    r""":math:`(s - \mathrm{mean}(s)) / \mathrm{std}(s)`."""
    # Equal scores may have a mean that is not quite theirs.
    return _over(scores - scores.mean(), scores.std() if np.ptp(scores) else 0.0)


def minmax(scores: np.ndarray) -> np.ndarray:
    r""":math:`(s - \min s) / (\max s - \min s)`."""
    return _over(scores - scores.min(), np.ptp(scores))


def median(scores: np.ndarray) -> np.ndarray:
    r""":math:`s / \mathrm{median}(s)`; the mean where half of the scores are 0."""
    return _over(scores, np.median(scores) or scores.mean())


def lamp(scores: np.ndarray) -> np.ndarray:
    r""":math:`s_i / \sum_{s_j \ge s_i} s_j` (Lee et al., 2021): the last neuron of a layer has 1."""
    order = np.argsort(-scores, kind="stable")
    rest = np.empty_like(scores)
    rest[order] = np.cumsum(scores[order])
    return _over(scores, rest)


def rank(scores: np.ndarray) -> np.ndarray:
    """The place in the layer, from 0 to 1: takes as large a share of each layer, as a control."""
    places = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return (places + 0.5) / len(scores)


DEBIASES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": none,
    "mean": mean,
    "l2": l2,
    "max": largest,
    "zscore": zscore,
    "minmax": minmax,
    "median": median,
    "lamp": lamp,
    "rank": rank,
}


def debiased(scores: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Scores of all groups, comparable.

    Args:
      scores: of the neurons of each group, the higher the better; 0 or more, but for ``none``, ``zscore``, ``minmax``
        and ``rank``.
      name: one of ``DEBIASES``.

    Raises:
      ValueError: the name is not known, or a score is not finite, or negative where it is divided by its kind.

    Example:
      >>> few = debiased({"a": [1.0, 3.0], "b": [10.0, 30.0]}, "mean")
      >>> print(few["a"], few["b"])
      [0.5 1.5] [0.5 1.5]
    """
    if name not in DEBIASES:
        raise ValueError(f"debias={name!r} is not known; use {', '.join(DEBIASES)}.")
    arrays = {group: np.asarray(values, np.float64) for group, values in scores.items()}
    for group, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"the scores of {group} are not finite; the network or its data are at fault.")
        if name in ("mean", "l2", "max", "median", "lamp") and (values < 0).any():
            raise ValueError(f"the scores of {group} are negative, and debias={name!r} divides by them; use zscore.")
    return {group: DEBIASES[name](values) for group, values in arrays.items()}


def layer_bias(scores: Mapping[str, Any]) -> float:
    r"""How much of the global ranking the layer explains: 0 where the ranks of all layers are alike, 1 where each
    layer has ranks of its own.

    .. math:: \eta^2 = \frac{\sum_l n_l (\bar r_l - \bar r)^2}{\sum_i (r_i - \bar r)^2}

    with r the ranks of all neurons together, equal scores with equal ranks.

    Args:
      scores: of the neurons of each group.

    Example:
      >>> print(layer_bias({"a": [1.0, 2.0], "b": [3.0, 4.0]}), layer_bias({"a": [1.0, 4.0], "b": [2.0, 3.0]}))
      0.8 0.0
    """
    from scipy.stats import rankdata

    sizes = [len(values) for values in scores.values()]
    ranks = np.split(
        rankdata(np.concatenate([np.asarray(v, np.float64) for v in scores.values()])), np.cumsum(sizes)[:-1]
    )
    everywhere = np.concatenate(ranks)
    total = ((everywhere - everywhere.mean()) ** 2).sum()
    between = sum(len(part) * (part.mean() - everywhere.mean()) ** 2 for part in ranks)
    return float(between / total) if total else 0.0
