"""What every data set is to the rest: random access to images and labels by index."""

import abc
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from normjax.errors import UserError

UNREADABLE = -1  # the label of a record that could not be read and is to be masked out
Images = np.ndarray | list[np.ndarray]  # one array (n, H, W, C), or a list where sizes differ; uint8


class Source(abc.ABC):
    """One split of a data set."""

    name: str  # for messages: data set and split
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int] | None  # height, width, channels; None where sizes differ
    labels: np.ndarray | None = None  # int32, where they are known without reading the images
    in_memory: bool = False
    unreadable: dict[int, str] | None = None  # what is wrong with records that are left out; None where none may be

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abc.abstractmethod
    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        """Images (uint8, channels last) and labels (int32) of the examples, in the order asked for.

        Raises:
          UserError: a record is damaged; it is named.
        """


class DatasetInfo(BaseModel):
    """What a run must remember of its data to evaluate and predict later: its ``dataset.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]  # of each channel, pixels in [0, 1]
    std: tuple[float, ...]
    train_examples: int
    validation_examples: int
    test_examples: int


class MemorySource(Source):
    """Images and labels held as arrays."""

    in_memory = True
    labels: np.ndarray

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        images: np.ndarray,
        labels: np.ndarray,
        unreadable: dict[int, str] | None = None,
    ):
        self.name, self.classes, self.unreadable = name, tuple(classes), unreadable
        left_out = np.isin(np.arange(len(labels)), list(unreadable or ()))
        self.labels = np.where(left_out, UNREADABLE, labels).astype(np.int32)
        check_labels(labels[~left_out], len(self.classes), name, np.flatnonzero(~left_out))
        self.images = images
        height, width, channels = images.shape[1:]
        self.image_shape = (height, width, channels)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        return self.images[indices], self.labels[indices]


class Subset(Source):
    """Some examples of a source, renumbered from 0."""

    def __init__(self, source: Source, indices: np.ndarray):
        self.source, self.indices = source, np.asarray(indices)
        self.name, self.classes, self.image_shape = source.name, source.classes, source.image_shape
        self.labels = None if source.labels is None else source.labels[self.indices]
        self.in_memory, self.unreadable = source.in_memory, source.unreadable

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        return self.source.read(self.indices[indices])


def check_labels(
    labels: np.ndarray, classes: int, name: str, records: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """The labels as int32.

    Args:
      labels: class of each record.
      classes: how many there are.
      name: of the source, for the message.
      records: numbers of the records, for the message; None is 0, 1, 2, ...

    Raises:
      UserError: a label is not in [0, classes); the first such record is named.
    """
    labels = np.asarray(labels)
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        record = wrong[0] if records is None else records[wrong[0]]
        raise UserError(
            f"{name}: label {labels[wrong[0]]} of record {record} does not fit {classes} classes; "
            f"use 0 to {classes - 1}."
        )
    return labels.astype(np.int32)
