"""The real data sets, where this machine has them."""

import os
from pathlib import Path

import pytest


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
