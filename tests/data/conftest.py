"""A small data set in the format of TFDS."""

from pathlib import Path

import pytest
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import write_records


@pytest.fixture
def tiny_dir(tmp_path) -> Path:
    """A folder with the data set ``tiny``: 12 training and 6 test examples of 6 x 5 pixels, three classes."""
    pixels = distinct_pixels(18, 6, 5, 3)
    splits = {"train": records(pixels[:12]), "test": records(pixels[12:])}
    write_records(tmp_path, "tiny", splits, tiny_features())
    return tmp_path


def tiny_features():
    import tensorflow_datasets as tfds

    return {"image": tfds.features.Image(shape=(6, 5, 3)), "label": tfds.features.ClassLabel(names=TINY_CLASSES)}
