"""A trained network at work, in the process of the recogniser: everything here computes with JAX."""

import base64
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from normjax.app.recognition.messages import NO_LAYERS, OTHER_CLASSES
from normjax.data import Source, load_dataset
from normjax.errors import UserError
from normjax.linen.factory import NORMS
from normjax.training.exported import write_exported
from normjax.training.predict import Predictor

_BATCH = 256  # pictures at a time, so that few programs are compiled
_NOISY = 16  # noisy copies of a picture that a saliency map is the mean of
_NOISE = 0.15  # their deviation, in deviations of the pixels
_CHANNELS = 64  # of a layer, that correlations are measured between at most
_LOOKED_AT = 256  # test pictures that activations are measured on


class Network:
    """The network of a run with what the pages ask of it.

    Args:
      path: the run directory.
    """

    def __init__(self, path: Path):
        self.predictor = Predictor(path)
        self.session, self.info = self.predictor.session, self.predictor.info
        self._gradient = jax.jit(jax.grad(self._logit))

    def predict(self, files: list[Path], top: int) -> list[list[dict[str, Any]]]:
        """The most probable classes of each picture."""
        pixels = self.predictor.pixels(files)
        return [self.predictor.most_probable(row, top) for row in self._probabilities(pixels)]

    def saliency(self, file: Path) -> dict[str, Any]:
        """Where the picture would have to change for the answer to change: the mean gradient of noisy copies.

        References:
          Smilkov, Thorat, Kim, Viégas, Wattenberg, `SmoothGrad <https://arxiv.org/abs/1706.03825>`_, 2017.
        """
        pixels = self.predictor.pixels([file])
        answer = int(self._probabilities(pixels)[0].argmax())
        x = self.predictor.scale(jnp.asarray(pixels))
        noise = _NOISE * jax.random.normal(jax.random.key(0), (_NOISY, *x.shape[1:]))
        gradient = self._gradient(x + noise, answer)
        heat = np.asarray(jnp.abs(gradient).mean(0).max(-1))
        heat = heat / heat.max() if heat.max() else heat
        return {"class": self.info.classes[answer], "picture": _png(pixels[0]), "map": _png(_glow(heat))}

    def answers(self, data_dir: Path | None) -> dict[str, Any]:
        """Label and answer for every picture of the test set, for the confusion matrix."""
        source = self._test_set(data_dir)
        labels: list[int] = []
        predicted: list[int] = []
        for part in np.array_split(np.arange(len(source)), max(1, -(-len(source) // _BATCH))):
            pixels, truth = self._read(source, part)
            labels += truth.tolist()
            predicted += self._probabilities(pixels).argmax(-1).tolist()
        return {
            "step": self.predictor.step,
            "classes": list(self.info.classes),
            "labels": labels,
            "predicted": predicted,
        }

    def pictures(self, indices: list[int], data_dir: Path | None) -> list[str]:
        """Pictures of the test set as the network sees them, PNG in base64."""
        return [_png(pixels) for pixels in self._read(self._test_set(data_dir), np.array(indices, int))[0]]

    def activations(self, data_dir: Path | None) -> list[dict[str, Any]]:
        """Mean, deviation and correlation of the channels before and after each norm, on pictures of the test set.

        Raises:
          UserError: the network is no Flax module any more, since it was pruned.
        """
        model = self.predictor.model
        if not isinstance(model, nn.Module):
            raise UserError(NO_LAYERS)
        source = self._test_set(data_dir)
        pixels, _ = self._read(source, np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT)).astype(int))
        seen: list[dict[str, Any]] = []
        norms = tuple(NORMS.values())

        def look(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if isinstance(context.module, norms) and context.method_name == "__call__":
                name = "/".join(context.module.path)
                seen.append({"layer": name, "before": _figures(args[0]), "after": _figures(out)})
            return out

        with nn.intercept_methods(look):
            model.apply(self.predictor.variables, self.predictor.scale(jnp.asarray(pixels)), train=False)
        return seen

    def export(self, output: Path) -> None:
        """Writes the network as files that ``normjax predict`` loads."""
        write_exported(self.session, self.predictor.variables, self.predictor.step, output)

    def _logit(self, x: jax.Array, answer: jax.Array) -> jax.Array:
        logits = self.predictor.model.apply(self.predictor.variables, x, train=False)
        return jnp.take(logits, answer, axis=-1).sum()

    def _probabilities(self, pixels: np.ndarray) -> np.ndarray:
        rows = []
        for start in range(0, len(pixels), _BATCH):
            part = pixels[start : start + _BATCH]
            size = 1 << (len(part) - 1).bit_length()  # a program for 1, 2, 4, ... pictures instead of one for each
            padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
            rows.append(self.predictor.probabilities(padded)[: len(part)])
        return np.concatenate(rows)

    def _test_set(self, data_dir: Path | None) -> Source:
        config, info = self.session.config, self.info
        options = config.data.model_copy(update={"mean": info.mean, "std": info.std})
        dataset = load_dataset(options, seed=config.seed, data_dir=data_dir, test_only=True)
        if dataset.info.classes != info.classes:
            raise UserError(OTHER_CLASSES)
        self._prepare = dataset.prepare
        return dataset.test

    def _read(self, source: Source, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images, labels = source.read(indices)
        return self._prepare.apply(images, np.empty((len(labels), 0))), labels


def _figures(x: jax.Array) -> dict[str, float]:
    """Of the channels: mean of the size of their means, mean deviation, mean size of correlations between them."""
    values = np.asarray(x, np.float64).reshape(-1, x.shape[-1])[:, :_CHANNELS]
    mean, deviation = values.mean(0), values.std(0)
    alive = deviation > 1e-6  # a channel that is constant correlates with nothing
    correlation = 0.0
    if alive.sum() > 1:
        table = np.asarray(np.corrcoef(values[:, alive], rowvar=False))
        correlation = float(np.abs(table[np.triu_indices(len(table), 1)]).mean())
    return {"mean": float(np.abs(mean).mean()), "deviation": float(deviation.mean()), "correlation": correlation}


def _glow(heat: np.ndarray) -> np.ndarray:
    """A map from 0 to 1 in colours from black by red to white, which are told apart without colours, too."""
    red, green, blue = (np.clip(3 * heat - offset, 0, 1) for offset in (0, 1, 2))
    return np.round(255 * np.stack([red, green, blue], -1)).astype(np.uint8)


def _png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
