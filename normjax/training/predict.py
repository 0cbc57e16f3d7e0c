"""Class probabilities of single pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from normjax.data.decode import read_picture
from normjax.data.transforms import resize_and_centre_crop
from normjax.errors import UserError
from normjax.training.evaluate import restore_network
from normjax.training.step import Images


def predict_run(path: Path, images: Sequence[Path], *, top: int = 5, checkpoint: str = "best") -> list[dict[str, Any]]:
    """The most probable classes of each picture.

    Args:
      path: the run directory.
      images: picture files; resized to what the network was trained on.
      top: how many classes, at most all.
      checkpoint: ``best``, ``last`` or a step.

    Returns:
      For each picture its file and ``predictions``, class and probability, the most probable first.

    Raises:
      UserError: the run is not there, or a file is no picture; nothing is predicted then.
    """
    session, variables, _ = restore_network(path, checkpoint)
    info = session.info
    height, width, channels = info.image_shape
    if height != width:
        raise UserError(f"{path} was trained on images of {height}x{width}; prediction takes square ones only.")
    pixels = resize_and_centre_crop(height).apply(
        [read_picture(file, channels) for file in images], np.empty((len(images), 0))
    )
    logits = jax.jit(lambda variables, x: session.model.apply(variables, x, train=False))(
        variables, Images(info.mean, info.std).scale(jax.numpy.asarray(pixels))
    )
    probabilities = np.asarray(jax.nn.softmax(logits[:, : len(info.classes)].astype(np.float32)))
    return [
        {
            "image": str(file),
            "predictions": [
                {"class": info.classes[index], "probability": float(row[index])}
                for index in np.argsort(-row, kind="stable")[:top]
            ],
        }
        for file, row in zip(images, probabilities, strict=True)
    ]
