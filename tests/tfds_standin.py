"""Small data sets in the ArrayRecord format of TensorFlow Datasets, written by its own code without a network.

write_standin(tmp_path, "imagenet2012")  # then load_tfds("imagenet2012", "train", tmp_path) reads it
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

Example = dict[str, Any]  # what the features take: an image as encoded bytes, a label as int or name


def write_standin(
    data_dir: Path,
    name: str = "imagenet2012",
    *,
    sizes: Mapping[str, int] | None = None,
    classes: int = 4,
    sides: tuple[int, int] = (40, 90),
    seed: int = 0,
) -> dict[str, list[Example]]:
    """A data set that TFDS knows, in its version and with its features, filled with random JPEG pictures.

    The pictures are noise of different sizes, tinted by the class, so that a network can learn them.

    Args:
      data_dir: where prepared data sets lie; what ``--data-dir`` names.
      name: as TFDS knows it; its features are ``image``, ``label`` and texts.
      sizes: examples of each split; None is 24 in ``train`` and 12 in ``validation``.
      classes: how many of the data set's classes occur, spread evenly from its first to its last.
      sides: least and greatest height and width.
      seed: decides pixels and sizes.

    Returns:
      The examples of each split, in the order of their records.
    """
    features = tfds.builder_cls(name)(data_dir=data_dir, file_format="array_record").info.features
    texts = set(features) - {"image", "label"}
    labels = np.linspace(0, features["label"].num_classes - 1, classes).astype(int).tolist()
    tints = np.linspace(0, 128, classes).astype(int).tolist()
    rng = np.random.default_rng(seed)

    def example(split: str, i: int) -> Example:
        height, width = rng.integers(*sides, size=2, endpoint=True)
        pixels = rng.integers(0, 128, (height, width, 3), dtype=np.uint8) + np.uint8(tints[i % classes])
        return {"image": encoded(pixels, "JPEG"), "label": labels[i % classes]} | dict.fromkeys(texts, f"{split}_{i}")

    sizes = {"train": 24, "validation": 12} if sizes is None else sizes
    splits = {split: [example(split, i) for i in range(size)] for split, size in sizes.items()}
    write_records(data_dir, name, splits)
    return splits


def write_records(
    data_dir: Path,
    name: str,
    splits: Mapping[str, Sequence[Example]],
    features: Mapping[str, Any] | None = None,
    *,
    files: int | None = None,
) -> Path:
    """A prepared data set that holds these examples, in this order.

    Args:
      data_dir: where prepared data sets lie.
      name: any, where ``features`` are given; else one that TFDS knows, whose version and features are taken.
      splits: the examples of each split.
      features: TFDS features by name.
      files: into how many files each split is cut; None is by its size.

    Returns:
      The folder that holds the files.
    """
    known = None if features else tfds.builder_cls(name)

    class Standin(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = known.VERSION if known else tfds.core.Version("1.0.0")

        def _info(self) -> tfds.core.DatasetInfo:
            own = known(data_dir=data_dir).info.features if known else tfds.features.FeaturesDict(dict(features))
            return tfds.core.DatasetInfo(builder=self, features=own, disable_shuffling=True)

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {split: self._generate_examples(examples) for split, examples in splits.items()}

        def _generate_examples(self, examples: Sequence[Example]) -> Iterator[tuple[int, Example]]:
            return enumerate(examples)

    Standin.name = name
    builder = Standin(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(num_shards=files)
    )
    return Path(builder.data_path)


def encoded(pixels: np.ndarray, file_format: str = "PNG") -> bytes:
    """The bytes of a picture file that holds these pixels, (height, width, 1 or 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, file_format)
    return buffer.getvalue()
