"""Dead neurons that put out a constant: what they give goes into the layers that read them."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from normjax.pruning.activations import reader
from normjax.tracing import leaf_paths
from normjax.tracing.neurons import Group, Member, Neurons
from normjax.tracing.program import Path


def fold_constants(
    model: Any, variables: Any, neurons: Neurons, gone: Mapping[str, Collection[int]], example: Any, **options: Any
) -> Any:
    r"""Lets the neurons that go leave their constants behind, where they have one.

    A neuron without incoming weights, as structural weight normalization makes them, still puts out
    :math:`c_i = \mathrm{relu}(\beta_i)`, and a layer that reads it gets :math:`\sum_i W_{oi} c_i` at every position.
    This goes into that layer's bias, or comes off the running mean of the norm behind it. It is exact but for the
    margins of a convolution that pads with zeros, and left out for layers that share their outputs with others, as
    those that end in a residual stream, since the norm behind cannot be told.

    Args:
      model: as for ``trace``.
      variables: its variables; they stay as they are.
      neurons: as ``trace`` found them.
      gone: the neurons that go, by group.
      example: an input, for its shape and type.
      **options: keyword arguments of the model at inference.

    Returns:
      The variables with the biases and means that make up for the constants.
    """
    leaves = leaf_paths(variables)
    # Two examples: beside a batch of one, which broadcasts, what is read cannot be told from what is added.
    blank = jnp.zeros((2, *example.shape[1:]), example.dtype)
    for group in neurons.groups:
        dead = [number for number in sorted(gone.get(group.name, ())) if _is_dead(group, number, leaves)]
        if not dead:
            continue
        put_out = np.asarray(reader(model, variables, neurons, group.name, blank, **options)(variables, blank))
        for member in group.members:
            place = _destination(neurons, member, leaves) if member.role == "in" else None
            if place is None:
                continue
            path, axis, sign = place
            kernel = np.moveaxis(np.asarray(leaves[member.path]), (member.axis, axis), (0, -1))
            for number in dead:
                values = put_out[:, number]
                if np.ptp(values) == 0 and values.flat[0]:
                    weights = kernel[member.indices[number]].reshape(-1, kernel.shape[-1]).sum(0)
                    leaves[path] = leaves[path] + (sign * values.flat[0] * weights).astype(leaves[path].dtype)
    return jax.tree.unflatten(jax.tree.structure(variables), list(leaves.values()))


def _is_dead(group: Group, number: int, leaves: dict[Path, Any]) -> bool:
    makers = [member for member in group.members if member.role == "out"]
    return bool(makers) and not any(
        np.take(np.asarray(leaves[member.path]), member.indices[number], member.axis).any() for member in makers
    )


def _destination(neurons: Neurons, reading: Member, leaves: dict[Path, Any]) -> tuple[Path, int, int] | None:
    """Where a constant goes that a kernel's outputs get: a vector, the kernel's axis of outputs, and the sign."""
    for whole in neurons.whole:
        if whole.path == reading.path and (bias := (*reading.path[:-1], "bias")) in leaves:
            return bias, whole.axis, 1
    for group in neurons.groups:
        makers = [member for member in group.members if member.role == "out"]
        if [member.path for member in makers] != [reading.path]:
            continue
        if (bias := (*reading.path[:-1], "bias")) in leaves:
            return bias, makers[0].axis, 1
        behind = {member.path[-1]: member.path for member in group.members if member.role == "other"}
        if "mean" in behind:
            return behind["mean"], makers[0].axis, -1
        # What adds a bias in the place of a norm, and nothing else.
        if "bias" in behind and "scale" not in behind:
            return behind["bias"], makers[0].axis, 1
    return None
