"""Sources held in memory, and parts of them renumbered from 0."""

import numpy as np
import pytest
from data_cases import TINY_CLASSES, UnevenSource, distinct_pixels, numbered_source

from normjax.data import MemorySource, Subset
from normjax.errors import UserError


def test_a_part_of_a_part_is_numbered_by_its_own_order():
    # 10 examples, of which 8, 6, 4, 2 are taken, of which the third, first and second.
    source = numbered_source(10)
    part = Subset(Subset(source, np.array([8, 6, 4, 2])), np.array([2, 0, 1]))
    for indices in ([0, 1, 2], [2, 0, 2], range(3)):
        images, labels = part.read(indices)
        expected = np.array([4, 8, 6])[list(indices)]
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(images, source.images[expected])
    np.testing.assert_array_equal(part.labels, [4, 8, 6])
    assert len(part) == 3


def test_a_part_knows_its_labels_only_where_the_whole_does():
    part = Subset(UnevenSource(5), np.array([3, 1]))
    assert part.labels is None
    assert part.read([0])[1].tolist() == [3]


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_a_label_out_of_range_is_reported_with_its_record(wrong):
    # The bounds are 0 and 2; the first record that breaks them is named.
    labels = np.array([0, 2, 1, wrong, 0, wrong])
    with pytest.raises(UserError, match=f"^ants: label {wrong} of record 3 does not fit 3 classes; use 0 to 2"):
        MemorySource("ants", TINY_CLASSES, distinct_pixels(6, 2, 2, 3), labels)
