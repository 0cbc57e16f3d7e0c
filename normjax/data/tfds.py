"""Data sets of TensorFlow Datasets, read as ArrayRecord without TensorFlow."""

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from normjax.data.decode import decode_image
from normjax.data.source import Images, Source, check_labels
from normjax.errors import UserError

_HOST = "https://storage.googleapis.com/tfds-data"


class TfdsSource(Source):
    """One split of a prepared data set with the features ``image`` and ``label``."""

    def __init__(self, builder: Any, split: str):
        import tensorflow_datasets as tfds

        features = builder.info.features
        self.name = f"{builder.info.name} ({split})"
        try:
            builder.info.splits[split]  # which knows parts, too: train[:10%]
        except (KeyError, ValueError) as error:
            known = ", ".join(builder.info.splits)
            raise UserError(
                f"{builder.info.name} has no split {split!r}; use one of {known}, or a part, for example train[:10%]."
            ) from error
        if not {"image", "label"} <= set(features) or not isinstance(features["label"], tfds.features.ClassLabel):
            raise UserError(
                f"{builder.info.name} has no image and class label; its features are {', '.join(features)}."
            )
        height, width, channels = features["image"].shape
        self.channels = 1 if channels == 1 else 3
        self.image_shape = (height, width, self.channels) if height and width else None
        self.classes = tuple(features["label"].names)
        # TFDS hands over the encoded bytes, so that one decoder with one error message serves every source.
        self.records = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})

    def __len__(self) -> int:
        return len(self.records)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        indices = [int(index) for index in indices]
        try:
            records = self.records.__getitems__(indices)
        except Exception as error:
            raise UserError(f"{self.name}: {self._unreadable(indices, error)}") from error
        images = [
            decode_image(record["image"], self.channels, f"{self.name}, record {index}")
            for index, record in zip(indices, records, strict=True)
        ]
        labels = check_labels(np.array([record["label"] for record in records]), len(self.classes), self.name, indices)
        if self.image_shape is None:
            return images, labels
        for index, image in zip(indices, images, strict=True):
            if image.shape != self.image_shape:
                raise UserError(
                    f"{self.name}, record {index}: an image of shape {image.shape}, where the data set declares "
                    f"{self.image_shape}."
                )
        return np.stack(images), labels

    def _unreadable(self, indices: list[int], error: Exception) -> str:
        """Which record it was: the reader only tells that one of them failed."""
        for index in indices:
            try:
                self.records[index]
            except Exception as cause:  # noqa: BLE001 - whatever the reader raises is what is reported
                return f"record {index} cannot be read ({cause})."
        return f"the records cannot be read ({error})."


def load_tfds(name: str, split: str, data_dir: Path | None) -> TfdsSource:
    """One split of a TFDS data set, prepared first where it is not there yet.

    Args:
      name: as TFDS knows it, for example ``cifar10`` or ``imagenet2012``.
      split: as TFDS knows it.
      data_dir: where prepared data sets lie; None is ``TFDS_DATA_DIR`` or TFDS's own default.

    Raises:
      UserError: the data set is unknown, or neither present nor to be had; the message says how to get it.
    """
    return TfdsSource(open_tfds(name, data_dir), split)


def open_tfds(name: str, data_dir: Path | None) -> Any:
    """The builder of a data set, prepared first where it is not there yet.

    Args:
      name: as TFDS knows it.
      data_dir: where prepared data sets lie; None is ``TFDS_DATA_DIR`` or TFDS's own default.

    Raises:
      UserError: the data set is unknown, or neither present nor to be had; the message says how to get it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(f"data.name={name!r} is not known; use digits, folder, or a data set of TFDS.") from error
    except Exception as error:
        raise UserError(f"data set {name} in {data_dir} cannot be opened: {error}") from error
    if not builder.is_prepared():
        _prepare(builder, name)
    return builder


def _prepare(builder: Any, name: str) -> None:
    where = Path(builder.data_path).parent.parent
    hint = (
        f"data set {name} is not in {where}. Give the folder that holds it by --data-dir or TFDS_DATA_DIR, or run, "
        f"where there is a network: python -c \"import tensorflow_datasets as tfds; tfds.builder('{name}', "
        f"data_dir='{where}', file_format='array_record').download_and_prepare(file_format='array_record')\""
    )
    if not _online():
        raise UserError(hint)
    try:
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:
        raise UserError(f"{hint} Here it failed: {type(error).__name__}: {error}") from error


def _online() -> bool:
    # TFDS would retry for minutes before it gives up.
    try:
        urllib.request.urlopen(urllib.request.Request(_HOST, method="HEAD"), timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True
