"""A network outside its run: config, data set and weights in a directory of four files, with their SHA-256.

Weights are in the safetensors format, which holds arrays and nothing that could be executed.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from normjax.errors import UserError
from normjax.training.run_directory import RunDirectory, write_json
from normjax.training.session import Session
from normjax.training.weights import write_weights

WEIGHTS = "model.safetensors"
SUMS = "SHA256SUMS"
FILES = ("config.json", "dataset.json", WEIGHTS, SUMS)


def write_exported(session: Session, variables: dict[str, Any], step: int, output: Path) -> None:
    """Writes the network of a run as four files; the directory has all of them or is not there.

    Args:
      session: of the run.
      variables: those that are evaluated, as ``restore_network`` gives them.
      step: of the checkpoint they are from.
      output: the directory.

    Raises:
      UserError: it cannot be written.
    """
    draft = output.with_name(output.name + ".draft")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        run = RunDirectory(draft)
        write_json(run.config_file, session.config.model_dump(mode="json"))
        write_json(run.dataset_file, session.info.model_dump(mode="json"))
        write_weights(draft / WEIGHTS, variables, format="normjax", step=str(step))
        (draft / SUMS).write_text("".join(f"{_sha256(draft / name)}  {name}\n" for name in FILES if name != SUMS))
        shutil.rmtree(output, ignore_errors=True)
        draft.rename(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from error


def is_exported(path: Path) -> bool:
    """Whether a directory holds an exported network, and not a run."""
    return (path / WEIGHTS).is_file()


def check_exported(path: Path) -> None:
    """Checks that every file is what was written.

    Raises:
      UserError: one is not, or is missing.
    """
    try:
        lines = [line.split("  ", 1) for line in (path / SUMS).read_text().splitlines()]
        sums = {line[-1]: line[0] for line in lines}
        for name in FILES[:-1]:
            if sums.get(name) != _sha256(path / name):
                raise UserError(f"{path / name} is not what was exported: its SHA-256 is not that of {SUMS}.")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no exported network: {error}.") from error


def read_exported(path: Path, session: Session) -> tuple[dict[str, Any], int]:
    """The variables of an exported network, and the step they are from.

    Args:
      path: the directory.
      session: built from its config and data set.

    Raises:
      UserError: a file is not what was written, or the weights are not those of the network.
    """
    try:
        with safe_open(path / WEIGHTS, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary
            step = int((file.metadata() or {})["step"])
    except (KeyError, OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{path} is no exported network: {error}.") from error
    state = session.state_like()
    expected = _flat({"params": state.params, **state.model_state})
    for name, like in expected.items():
        if name not in arrays or arrays[name].shape != like.shape:
            got = arrays[name].shape if name in arrays else "missing"
            raise UserError(f"{path / WEIGHTS} does not fit its config: {name} is {got}, and should be {like.shape}.")
    return traverse_util.unflatten_dict(arrays, sep="/"), step


def _flat(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.tree.map(np.asarray, variables), sep="/")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
