"""The reference batch of a run: which examples it holds."""

from collections import Counter

import numpy as np
import pytest

from normjax.data import MemorySource, draw_reference
from normjax.data.transforms import identity
from normjax.errors import UserError

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [400, 200, 300, 3]))


class Unlabelled(MemorySource):
    """Labels that are known only where the images are read, as in a data set on disk."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.known, self.labels = self.labels, None

    def read(self, indices):
        return self.images[indices], self.known[indices]


def source(kind=MemorySource):
    numbers = np.arange(len(LABELS))
    images = np.stack([numbers // 256, numbers % 256], -1).astype(np.uint8).reshape(-1, 1, 1, 2)
    return kind("letters", tuple("abcd"), images, LABELS)


def numbers(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 0, 1]


def take(size, draw="balanced", seed=0, kind=MemorySource):
    return numbers(draw_reference(source(kind), identity(), size=size, draw=draw, seed=seed))


@pytest.mark.parametrize("kind", [MemorySource, Unlabelled])
def test_a_balanced_reference_has_as_many_of_each_class(kind):
    counts = Counter(LABELS[take(10, kind=kind)].tolist())
    assert sorted(counts.values()) == [2, 2, 3, 3]
    np.testing.assert_array_equal(take(10, kind=kind), take(10))


def test_a_class_that_has_too_few_leaves_its_places_to_the_others():
    chosen = take(40)
    counts = Counter(LABELS[chosen].tolist())
    assert counts[3] == 3
    assert all(counts[label] >= 10 for label in range(3))
    assert len(set(chosen.tolist())) == 40


def test_a_random_reference_is_drawn_like_the_data():
    chosen = take(600, "random")
    assert len(set(chosen.tolist())) == 600
    np.testing.assert_allclose(np.bincount(LABELS[chosen]) / 600, np.bincount(LABELS) / len(LABELS), atol=0.03)


@pytest.mark.parametrize("draw", ["balanced", "random"])
def test_the_seed_decides(draw):
    np.testing.assert_array_equal(take(20, draw, 1), take(20, draw, 1))
    assert set(take(20, draw, 1)) != set(take(20, draw, 2))


def test_more_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"reference.size=904 is more than the 903 training examples"):
        take(904)
