"""The real data sets, where this machine has them, and a small one in the format of TFDS."""

import os
from pathlib import Path

import pytest
from data_cases import TINY_CLASSES, distinct_pixels, records
from tfds_standin import write_records


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """The folder TFDS_DATA_DIR where it holds CIFAR-10; a CI run must have it."""
    return _folder_with("cifar10")


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    """The folder TFDS_DATA_DIR where it holds MNIST; a CI run must have it."""
    return _folder_with("mnist")


def _folder_with(name: str) -> Path:
    folder = os.environ.get("TFDS_DATA_DIR", "")
    if folder and (Path(folder) / name).is_dir():
        return Path(folder)
    reason = f"TFDS_DATA_DIR={folder!r} holds no {name}; prepare it with TFDS and name its folder."
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


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
