"""The variables of a network as a safetensors file: written, read, and as what a run starts from."""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from normjax.errors import UserError
from normjax.models.common import HEAD
from normjax.models.vgg import from_torchvision

Flat = dict[tuple[str, ...], Any]  # arrays by collection, layer and name


def write_weights(file: Path, variables: Any, **notes: str) -> None:
    """Writes the variables of a network, each under its path, as ``params/conv0_0/kernel``.

    Args:
      file: to be written.
      variables: of the network.
      **notes: kept in the file beside them.

    Raises:
      UserError: the file cannot be written.
    """
    flat = {"/".join(path): np.ascontiguousarray(leaf) for path, leaf in flatten_dict(dict(variables)).items()}
    draft = file.with_name(file.name + ".draft")
    try:
        save_file(flat, draft, notes or None)
        draft.replace(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be written: {error}.") from error


def read_weights(file: Path) -> Flat:
    """The arrays of a file by their paths; those of torchvision's VGG-16 by the names of ours.

    Raises:
      UserError: it is not there, is no safetensors file, or holds other names.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights={file} cannot be read as safetensors: {error}.") from error
    if "features.0.weight" in tensors:
        try:
            tensors = from_torchvision(tensors)
        except KeyError as error:
            raise UserError(f"weights={file} is not all of a VGG-16: {error.args[0]} is missing.") from error
    return {tuple(name.split("/")): array for name, array in tensors.items()}


def fitting(given: Flat, shapes: Any, file: Path) -> Flat:
    """What of a file a network starts from: everything but a head for other classes.

    Args:
      given: the arrays of the file.
      shapes: of the network's variables.
      file: for the message.

    Raises:
      UserError: a variable is missing, is one too many, or has another shape.
    """
    likes = flatten_dict(dict(shapes))
    wanted = {path: leaf.shape for path, leaf in likes.items()}
    body = {path for path in wanted if HEAD not in path}
    if missing := sorted(body - given.keys()):
        raise UserError(f"weights={file} lacks {'/'.join(missing[0])}, which the network has.")
    if foreign := sorted(path for path in given.keys() - wanted.keys() if HEAD not in path):
        raise UserError(f"weights={file} holds {'/'.join(foreign[0])}, which the network has not.")
    for path in sorted(body):
        if given[path].shape != wanted[path]:
            raise UserError(
                f"weights={file}: {'/'.join(path)} has shape {given[path].shape}, the network wants {wanted[path]}."
            )
    heads = [path for path in wanted if HEAD in path and path in given]
    same_classes = [path for path in heads if given[path].shape[-1:] == wanted[path][-1:]]
    for path in same_classes:
        if given[path].shape != wanted[path]:
            raise UserError(
                f"weights={file}: {'/'.join(path)} has shape {given[path].shape}, the network wants {wanted[path]}."
            )
    taken = (*body, *same_classes)
    for path in taken:
        if not np.issubdtype(given[path].dtype, np.floating):
            raise UserError(f"weights={file}: {'/'.join(path)} is {given[path].dtype}; use floating-point numbers.")
    return {path: given[path].astype(likes[path].dtype) for path in taken}
