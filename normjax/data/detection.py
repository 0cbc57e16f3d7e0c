"""Pictures with objects to train and test a detector on, by name."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import grain
import numpy as np

from normjax.data.load import load_dataset
from normjax.data.options import DataConfig
from normjax.data.order import example_order
from normjax.data.scenes import Scenes, SceneSource
from normjax.data.tfds_objects import ObjectSource

_ALL_OBJECTS = 100  # of a test picture: more than COCO has in any
_TEST_SEED = 2**20  # test scenes are the same for all seeds


class SceneReader(Protocol):
    """Random access to pictures with objects."""

    name: str
    classes: tuple[str, ...]
    channels: int
    has_masks: bool

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> Scenes: ...


def load_scenes(options: Any, *, seed: int, data_dir: Path | None) -> tuple[SceneReader, SceneReader]:
    """Training and test pictures.

    Args:
      options: the ``data`` section of a detection config.
      seed: decides the training scenes.
      data_dir: where data sets lie.

    Raises:
      UserError: the data set is not there or has no objects.
    """
    if options.name != "scenes":
        shared: dict[str, Any] = {"name": options.name, "size": options.image_size, "data_dir": data_dir}
        return (
            ObjectSource(split=options.train_split, objects=options.objects, most=options.train_examples, **shared),
            ObjectSource(split=options.test_split, objects=_ALL_OBJECTS, most=options.test_examples, **shared),
        )
    # Any mean and deviation: digits are wanted as they are.
    plain = DataConfig(name=options.digits, validation=0, augmentation="none", mean=(0.5,), std=(0.5,))
    digits = load_dataset(plain, seed=0, data_dir=data_dir)
    made = {"size": options.image_size, "objects": options.objects}
    return (
        SceneSource(digits.train, options.train_examples, seed=seed, **made),
        SceneSource(digits.test, options.test_examples, seed=_TEST_SEED, **made),
    )


def detection_batches(
    source: SceneReader, *, batch_size: int, seed: int, start: int, stop: int, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """The batches of the steps start to stop: ``image``, ``boxes``, ``labels``, ``instances``."""

    def make(step: int) -> dict[str, np.ndarray]:
        first = int(step) * batch_size
        return source.read(example_order(len(source), seed, first, first + batch_size))._asdict()

    dataset = grain.MapDataset.range(start, stop).map(make)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
