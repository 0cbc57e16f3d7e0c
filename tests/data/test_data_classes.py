"""Some classes of a data set: their examples and no others, numbered anew."""

import numpy as np
import pytest
from data_cases import identities

from normjax.data import load_dataset
from normjax.data.classes import of_classes
from normjax.data.options import DataConfig
from normjax.data.source import UNREADABLE, MemorySource
from normjax.errors import UserError


class Blind(MemorySource):
    """A source that does not know its labels before it is read."""

    def __init__(self, source):
        super().__init__(source.name, source.classes, source.images, source.labels)
        self.labels = None

    def read(self, indices):
        images = self.images[indices]
        return images, images[:, 0, 0, 0].astype(np.int32)


def source_of(labels, names="abcd"):
    labels = np.asarray(labels)
    return MemorySource(
        "toys", tuple(names), np.broadcast_to(labels[:, None, None, None], (len(labels), 2, 2, 1)), labels
    )


@pytest.mark.parametrize("kind", [lambda source: source, Blind], ids=["labels known", "labels read"])
def test_examples_of_the_classes_are_left_and_numbered_in_their_order(kind):
    few = of_classes(kind(source_of([0, 1, 2, 3, 2, 0])), ("c", "a"))
    assert (len(few), few.classes) == (4, ("c", "a"))
    images, labels = few.read(range(4))
    np.testing.assert_array_equal(images[:, 0, 0, 0], [0, 2, 2, 0])
    np.testing.assert_array_equal(labels, [1, 0, 0, 1])


def test_records_that_cannot_be_read_are_of_no_class():
    source = source_of([0, 1, 2, 3])
    source.labels = np.array([0, UNREADABLE, 2, UNREADABLE], np.int32)
    np.testing.assert_array_equal(of_classes(source, ("a", "c")).labels, [0, 1])


def test_all_three_parts_have_the_classes():
    whole, few = (load_dataset(DataConfig(classes=c), seed=0, data_dir=None) for c in ((), ("7", "2")))
    assert few.info.classes == ("7", "2")
    parts = (whole.train, few.train), (whole.validation, few.validation), (whole.test, few.test)
    chosen, left = [], []
    for all_of, some in parts:
        images, labels = all_of.read(range(len(all_of)))
        chosen += identities(images[np.isin(labels, (7, 2))])
        images, labels = some.read(range(len(some)))
        left += identities(images)
        assert set(labels.tolist()) == {0, 1}
    assert sorted(chosen) == sorted(left)


def test_a_split_without_the_classes_is_refused_before_training():
    with pytest.raises(UserError, match=r"data\.classes=b d: toys has no example of these"):
        of_classes(source_of([0, 2]), ("b", "d"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("a", "z"), "data.classes=z: no class of toys; use a, b, c, d"),
        (("a",), "data.classes=a: name two classes or more, each once"),
        (("a", "b", "a"), "data.classes=a b a: name two classes or more, each once"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(classes, message):
    with pytest.raises(UserError, match=message):
        of_classes(source_of([0, 1, 2, 3]), classes)
