"""The digits of scikit-learn: all of them, once, 80 to 20 in each class."""

import numpy as np
import pytest
from data_cases import identities
from sklearn.datasets import load_digits as sklearn_digits

from normjax.data import load_source
from normjax.errors import UserError


def digits(split, seed=0):
    source = load_source("digits", split, seed=seed, data_dir=None)
    return source, *source.read(range(len(source)))


@pytest.mark.parametrize("seed", [0, 1])
def test_train_and_test_are_disjoint_and_make_up_the_whole(seed):
    # Both sides are asked for apart; a split of another seed on one side would leak test images into training.
    (train, _, _), (test, _, _) = digits("train", seed), digits("test", seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train.indices, test.indices])), np.arange(1797))


def test_images_and_labels_are_those_of_scikit_learn():
    original = sklearn_digits()
    for split in ("train", "test"):
        source, images, labels = digits(split)
        np.testing.assert_array_equal(labels, original.target[source.indices])
        # 17 levels over a byte: 16 is white, and the levels can be had back.
        np.testing.assert_array_equal(np.rint(images[..., 0] / 255 * 16), original.images[source.indices])
        assert images.max() == 255


def test_a_fifth_of_each_class_is_for_testing():
    (_, _, train), (_, _, test) = digits("train"), digits("test")
    in_test, total = np.bincount(test), np.bincount(train) + np.bincount(test)
    np.testing.assert_array_equal(total, np.bincount(sklearn_digits().target))
    assert np.abs(in_test - 0.2 * total).max() <= 0.5


def test_another_seed_tests_on_other_digits():
    (_, first, _), (_, again, _), (_, other, _) = digits("test", 0), digits("test", 0), digits("test", 1)
    assert identities(first) == identities(again)
    assert identities(first) != identities(other)


def test_an_unknown_split_names_those_there_are():
    with pytest.raises(UserError, match=r"no split 'validation'; use train or test"):
        load_source("digits", "validation", seed=0, data_dir=None)
