"""Means and paired differences over seeds, with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval; None with one seed."""

    mean: float
    half_width: float | None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.half_width is None else f"{self.mean:.2f} ± {self.half_width:.2f}"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean with its 95 % interval by Student's t.

    Example:
      >>> print(estimate([1.0, 2.0, 3.0]))
      2.00 ± 2.48
    """
    if len(values) < 2:
        return Estimate(float(np.mean(values)), None)
    width = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return Estimate(float(np.mean(values)), float(width))


def paired(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of the differences seed by seed.

    Example:
      >>> print(paired([1.0, 2.0, 4.0], [0.0, 1.0, 2.0]))
      1.33 ± 1.43
    """
    return estimate([a - b for a, b in zip(values, others, strict=True)])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
