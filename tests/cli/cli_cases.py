"""What the tests of the command line share."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
# Two epochs of digits in 21 steps, a checkpoint every three.
TINY = (
    *("--epochs", "2", "--batch-size", "128", "--model.name", "mlp", "--model.widths", "8", "6"),
    *("--schedule.warmup-epochs", "0.5", "--run.log-every", "2", "--run.checkpoint-every", "3", "--run.keep", "30"),
)


class Answer(NamedTuple):
    code: int
    out: str
    err: str


def digit_file(path: Path, index: int = 0) -> Path:
    """A picture of one of the digits, as the network was trained on them."""
    Image.fromarray(np.round(load_digits().images[index] * (255 / 16)).astype(np.uint8)).save(path)
    return path


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes, but for the note of who looked last."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(path)): file.read_bytes() for file in files}
