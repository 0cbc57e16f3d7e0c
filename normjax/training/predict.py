"""Class probabilities of single pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.data.decode import read_picture
from normjax.data.transforms import resize_and_centre_crop
from normjax.errors import UserError
from normjax.training.evaluate import restore_network
from normjax.training.step import Images


class Predictor:
    """The network of a run, ready to name what is in pictures.

    Args:
      path: the run directory, or that of an exported network.
      checkpoint: ``best``, ``last`` or a step.

    Raises:
      UserError: the run is not there, or was not trained on square images.
    """

    def __init__(self, path: Path, checkpoint: str = "best"):
        self.session, self.variables, self.step = restore_network(path, checkpoint)
        self.info, self.model = self.session.info, self.session.model
        height, width, self._channels = self.info.image_shape
        if height != width:
            raise UserError(f"{path} was trained on images of {height}x{width}; prediction takes square ones only.")
        self._prepare = resize_and_centre_crop(height)
        self.scale = Images(self.info.mean, self.info.std).scale
        self._apply = jax.jit(lambda variables, x: self.model.apply(variables, x, train=False))

    def pixels(self, files: Sequence[Path]) -> np.ndarray:
        """Pictures in the size and with the channels of the network, uint8.

        Raises:
          UserError: a file is no picture.
        """
        pictures = [read_picture(file, self._channels) for file in files]
        return self._prepare.apply(pictures, np.empty((len(files), 0)))

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Of each class, a row a picture."""
        logits = self._apply(self.variables, self.scale(jnp.asarray(pixels)))
        return np.asarray(jax.nn.softmax(logits[:, : len(self.info.classes)].astype(np.float32)))

    def most_probable(self, row: np.ndarray, top: int) -> list[dict[str, Any]]:
        """Class and probability, the most probable first, of a row of ``probabilities``."""
        return [
            {"class": self.info.classes[index], "probability": float(row[index])}
            for index in np.argsort(-row, kind="stable")[:top]
        ]


def predict_run(path: Path, images: Sequence[Path], *, top: int = 5, checkpoint: str = "best") -> list[dict[str, Any]]:
    """The most probable classes of each picture.

    Args:
      path: the run directory, or that of an exported network.
      images: picture files; resized to what the network was trained on.
      top: how many classes, at most all.
      checkpoint: ``best``, ``last`` or a step.

    Returns:
      For each picture its file and ``predictions``, class and probability, the most probable first.

    Raises:
      UserError: the run is not there, or a file is no picture; nothing is predicted then.
    """
    predictor = Predictor(path, checkpoint)
    rows = predictor.probabilities(predictor.pixels(images))
    return [
        {"image": str(file), "predictions": predictor.most_probable(row, top)}
        for file, row in zip(images, rows, strict=True)
    ]
