"""A folder of class folders with pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normjax.data.decode import read_picture
from normjax.data.source import Images, Source, Subset
from normjax.data.splits import stratified_split
from normjax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")


class FolderSource(Source):
    """The pictures of ``root/CLASS/*`` as RGB, classes and files in the order of their names."""

    image_shape = None
    labels: np.ndarray

    def __init__(self, root: Path):
        self.name = str(root)
        if not root.is_dir():
            raise UserError(f"data folder {root} is not a folder; give one with a folder for each class by --data-dir.")
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.classes = tuple(folder.name for folder in folders)
        files = [
            (path, label)
            for label, folder in enumerate(folders)
            for path in sorted(folder.rglob("*"))
            if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path.relative_to(folder))
        ]
        if len(self.classes) < 2 or not files:
            raise UserError(
                f"data folder {root} holds {len(self.classes)} class folders and {len(files)} pictures; "
                f"it needs two or more folders with pictures ({', '.join(SUFFIXES)})."
            )
        self.paths = [path for path, _ in files]
        self.labels = np.array([label for _, label in files], np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[Images, np.ndarray]:
        paths = [self.paths[index] for index in indices]
        images = [read_picture(path, 3) for path in paths]
        return images, self.labels[np.asarray(indices, int)]


def load_folder(root: Path, split: str, seed: int) -> Source:
    """One split of a folder: ``root/SPLIT/CLASS/*``, or an 80/20 split of ``root/CLASS/*`` by the seed.

    Raises:
      UserError: the folder is missing, has no classes with pictures, or one of train and test alone.
    """
    if (root / "train").is_dir() and (root / "test").is_dir():
        return FolderSource(root / split)
    if (root / "train").is_dir() or (root / "test").is_dir():
        raise UserError(f"data folder {root} has only one of train and test; it needs both, or classes alone.")
    source = FolderSource(root)
    train, test = stratified_split(source.labels, share=0.2, seed=seed)
    return Subset(source, train if split == "train" else test)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
