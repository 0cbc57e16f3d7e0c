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

_EXAMPLES = 2  # that differ: what depends on the input is no constant


def fold_constants(
    model: Any, variables: Any, neurons: Neurons, gone: Mapping[str, Collection[int]], example: Any, **options: Any
) -> Any:
    r"""Lets the neurons that go leave their constants behind, where they have one.

    A neuron without incoming weights, as structural weight normalization makes them, still puts out
    :math:`c_i = \mathrm{relu}(\beta_i)`, and a layer that reads it gets :math:`\sum_i W_{oi} c_i` at every position.
    This goes into that layer's bias, or comes off the running mean of the norm behind it. It is exact but for the
    margins of a convolution that pads with zeros.

    It is done where it is plain what to change: one kernel reads the neurons, outside of loops, and has one dimension
    of outputs, all of one layer alone, with its own bias or one norm behind. Elsewhere, as before a residual stream,
    what is left computes what the network with zeros in the place of the neurons computes.

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
    inputs = np.random.default_rng(0).normal(size=(_EXAMPLES, *example.shape[1:]))
    for group in neurons.groups:
        dead = [number for number in sorted(gone.get(group.name, ())) if _is_dead(group, number, leaves)]
        reading = [member for member in group.members if member.role == "in"]
        if not dead or len(reading) != 1 or (place := _destination(neurons, reading[0], leaves)) is None:
            continue
        x = jnp.asarray(inputs, example.dtype)
        put_out = reader(model, variables, neurons, group.name, x, alone=True, **options)
        if put_out is None:
            continue
        values = np.asarray(put_out(variables, x))[:, dead]
        path, axis, sign = place
        kernel = np.moveaxis(np.asarray(leaves[reading[0].path]), (reading[0].axis, axis), (0, -1))
        for number, value in zip(dead, np.moveaxis(values, 1, 0), strict=True):
            if np.ptp(value) == 0 and value.flat[0]:
                weights = kernel[reading[0].indices[number]].reshape(-1, kernel.shape[-1]).sum(0)
                leaves[path] = leaves[path] + (sign * value.flat[0] * weights).astype(leaves[path].dtype)
    return jax.tree.unflatten(jax.tree.structure(variables), list(leaves.values()))


def _is_dead(group: Group, number: int, leaves: dict[Path, Any]) -> bool:
    makers = [member for member in group.members if member.role == "out"]
    return bool(makers) and not any(
        np.take(np.asarray(leaves[member.path]), member.indices[number], member.axis).any() for member in makers
    )


def _destination(neurons: Neurons, reading: Member, leaves: dict[Path, Any]) -> tuple[Path, int, int] | None:
    """Where a constant goes that a kernel's outputs get: a vector, the kernel's axis of outputs, and the sign."""
    kernel = leaves[reading.path]
    bias = (*reading.path[:-1], "bias")
    axes = {whole.axis for whole in neurons.whole if whole.path == reading.path}
    groups = [group for group in neurons.groups if any(_makes(member, reading.path) for member in group.members)]
    axes |= {member.axis for group in groups for member in group.members if _makes(member, reading.path)}
    if len(axes) != 1:
        return None
    (axis,) = axes
    size = kernel.shape[axis]
    if bias in leaves and leaves[bias].shape == (size,):
        return bias, axis, 1
    if len(groups) != 1:
        return None
    members = groups[0].members
    alone = [member.path for member in members if member.role == "out"] == [reading.path]
    read_once = sum(member.role == "in" for member in members) <= 1
    others = [member.path for member in members if member.role == "other"]
    behind = {path[-1]: path for path in others}
    if not alone or not read_once or len(behind) != len(others) or any(leaves[p].shape != (size,) for p in others):
        return None
    if "mean" in behind:
        return behind["mean"], axis, -1
    # What adds a bias in the place of a norm, and nothing else.
    return (behind["bias"], axis, 1) if list(behind) == ["bias"] else None


def _makes(member: Member, path: Path) -> bool:
    return member.role == "out" and member.path == path
