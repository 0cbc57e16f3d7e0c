"""Splits by the seed: disjoint, complete, and each class with its share."""

import numpy as np
import pytest

from normjax.data.splits import random_split, stratified_split

# Classes of unlike size, out of order, with a gap in the numbers, one of them with a single example.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5, 7], [40, 33, 10, 7, 1]))
SPLITS = {
    "stratified": lambda share, seed: stratified_split(LABELS, share, seed),
    "random": lambda share, seed: random_split(len(LABELS), share, seed),
}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("name", SPLITS)
def test_each_example_is_in_exactly_one_part(name, share):
    first, second = SPLITS[name](share, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([first, second])), np.arange(len(LABELS)))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.5])
def test_each_class_has_its_share_within_rounding(share):
    _, second = stratified_split(LABELS, share, 0)
    for label in np.unique(LABELS):
        assert abs((LABELS[second] == label).sum() - share * (label == LABELS).sum()) <= 0.5


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_random_split_has_its_share_within_rounding(share):
    _, second = random_split(len(LABELS), share, 0)
    assert abs(len(second) - share * len(LABELS)) <= 0.5


@pytest.mark.parametrize("name", SPLITS)
def test_the_seed_decides_the_split(name):
    parts = [SPLITS[name](0.2, seed)[1] for seed in range(5)]
    for seed, second in enumerate(parts):
        np.testing.assert_array_equal(SPLITS[name](0.2, seed)[1], second)
    assert len({second.tobytes() for second in parts}) == len(parts)


@pytest.mark.parametrize("name", SPLITS)
def test_every_example_is_as_likely_to_be_in_the_second_part(name):
    # Taking the first of each class instead of drawing would leave some always out. 400 seeds: 80 or 200, sd below 10.
    share = 0.5
    counts = np.bincount(np.concatenate([SPLITS[name](share, seed)[1] for seed in range(400)]), minlength=len(LABELS))
    expected = np.full(len(LABELS), 0.5)
    if name == "stratified":
        for label in np.unique(LABELS):
            n = (label == LABELS).sum()
            expected[label == LABELS] = round(share * n) / n  # 16 of 33, 4 of 7, 0 of 1
    assert np.abs(counts - 400 * expected).max() < 50
