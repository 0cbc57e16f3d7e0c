"""A trained network without its normalization, as one program in a file."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from normjax.errors import UserError
from normjax.inference import Materialized, fold, materialize
from normjax.training.evaluate import restore_network
from normjax.training.step import Images

PLATFORMS = ("cpu", "cuda", "tpu")
_IMAGES = 128  # that predictions are compared on


def fold_run(path: Path, *, output: Path | None = None, checkpoint: str = "best") -> dict[str, Any]:
    """Folds the network of a run and writes it as a program that needs neither the run nor normjax.

    The program takes pixels as they are stored (batch, height, width, channels; uint8), any number of images, and gives
    logits: ``jax.export.deserialize(file.read_bytes()).call(pixels)``.

    Args:
      path: the run directory.
      output: the file; ``folded.stablehlo`` in the run directory where it is None.
      checkpoint: ``best``, ``last`` or a step.

    Returns:
      The file and its bytes, the bytes of the weights before and after, which layers were folded and which became a
      multiply-add, the largest difference of a logit on random pixels, and milliseconds for 128 images before and
      after.

    Raises:
      UserError: the run or the checkpoint is not there, or the file cannot be written.
    """
    session, network, step = restore_network(path, checkpoint)
    scale = Images(session.info.mean, session.info.std).scale
    variables = jax.tree.map(jnp.asarray, network)
    shape = session.info.image_shape
    example = scale(jnp.zeros((1, *shape), jnp.uint8))
    plain = Materialized(session.model.apply, variables)
    if session.config.weight_norm.name != "none":
        plain = materialize(session.model, variables, example, train=False)
    apply, folded = fold(plain, plain.variables, example, train=False)

    (batch,) = export.symbolic_shape("batch")
    program = export.export(jax.jit(lambda pixels: apply(folded, scale(pixels))), platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((batch, *shape), jnp.uint8)
    )
    file = output or path / "folded.stablehlo"
    try:
        file.write_bytes(program.serialize())
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}.") from error

    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (_IMAGES, *shape), np.uint8))
    before = jax.jit(lambda pixels: session.model.apply(variables, scale(pixels), train=False))
    after = jax.jit(export.deserialize(bytearray(file.read_bytes())).call)
    logits = before(pixels)
    ms_before, ms_after = _times((before, after), pixels)
    return {
        "run": str(path),
        "step": step,
        "file": str(file),
        "bytes": file.stat().st_size,
        "weight_bytes_before": _bytes(variables),
        "weight_bytes_after": _bytes(folded),
        "folded": list(apply.folded),
        "multiply_adds": list(apply.multiply_adds),
        "largest_difference": float(jnp.abs(after(pixels) - logits).max()),
        "largest_logit": float(jnp.abs(logits).max()),
        "images": _IMAGES,
        "ms_before": ms_before,
        "ms_after": ms_after,
    }


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _times(functions: Sequence[Any], pixels: jax.Array) -> list[float]:
    """Median milliseconds of a call of each, in turn."""
    times = np.zeros((10, len(functions)))
    for row in times:
        for i, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function(pixels))
            row[i] = time.perf_counter() - start
    # The first calls compile.
    return [float(ms) for ms in np.median(times[2:], 0) * 1e3]
