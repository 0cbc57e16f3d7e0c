"""Which examples belong to training, validation and test, decided by the seed."""

import numpy as np


def stratified_split(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two so that each class has its share in both.

    Args:
      labels: class of each example.
      share: of the second part, in [0, 1); rounded for each class.
      seed: decides the split.

    Returns:
      Indices of the first and of the second part, each ascending.

    Example:
      >>> first, second = stratified_split(np.array([0, 0, 0, 0, 1, 1, 1, 1]), share=0.25, seed=0)
      >>> len(first), len(second)
      (6, 2)
    """
    rng = np.random.default_rng([seed, 0x5911])
    second = [
        rng.permutation(members)[: round(share * len(members))]
        for members in (np.flatnonzero(labels == label) for label in np.unique(labels))
    ]
    return _complement(len(labels), np.concatenate(second) if second else np.array([], int))


def random_split(size: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits examples in two where labels are not known without reading everything.

    Args:
      size: number of examples.
      share: of the second part, in [0, 1).
      seed: decides the split.

    Returns:
      Indices of the first and of the second part, each ascending.
    """
    rng = np.random.default_rng([seed, 0x5911])
    return _complement(size, rng.permutation(size)[: round(share * size)])


def _complement(size: int, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    in_second = np.zeros(size, bool)
    in_second[second] = True
    return np.flatnonzero(~in_second), np.flatnonzero(in_second)
