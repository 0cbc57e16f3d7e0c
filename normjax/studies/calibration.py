"""The search for the strength of a penalty that makes a given share of zeros."""

import math
from collections.abc import Sequence


def next_strength(tried: Sequence[tuple[float, float]], low: float, high: float) -> float | None:
    """The strength to try next, or None where one has been found or the tried ones do not enclose it.

    Between the nearest strengths below and above, by the logarithm of the strength.

    Args:
      tried: strengths and the shares of zeros that they gave.
      low: least share that is wanted.
      high: largest share that is wanted.

    Example:
      >>> print(next_strength([(0.01, 0.5), (0.1, 0.9)], 0.69, 0.71))
      0.0316
    """
    if found_strength(tried, low, high) is not None:
        return None
    wanted = (low + high) / 2
    below = [point for point in tried if point[1] < low]
    above = [point for point in tried if point[1] > high]
    if not below or not above:
        return None
    (weak, few), (strong, many) = max(below), min(above)
    share = min(max((wanted - few) / (many - few), 0.1), 0.9)
    return float(f"{math.exp(math.log(weak) + share * (math.log(strong) - math.log(weak))):.3g}")


def found_strength(tried: Sequence[tuple[float, float]], low: float, high: float) -> float | None:
    """The weakest strength whose share of zeros is as wanted; None where there is none."""
    return min((strength for strength, zeros in tried if low <= zeros <= high), default=None)
