"""Scores of neurons: the higher, the more a neuron is worth keeping."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from normjax.tracing.neurons import Group, Member, Neurons
from normjax.tracing.program import Path, leaf_paths


class Evidence(NamedTuple):
    """What a score is made of."""

    params: Mapping[Path, Any]
    activations: Any = None  # ActivationSums of each group; None where no data were seen
    seed: int = 0


Score = Callable[[Group, Evidence], np.ndarray]
Needs = Literal["weights", "data"]


class Kind(NamedTuple):
    """A score and what it needs."""

    function: Score
    needs: Needs


def _rows(member: Member, evidence: Evidence) -> np.ndarray:
    """The weights of each neuron in a member, in a row."""
    weights = np.moveaxis(np.asarray(evidence.params[member.path], np.float64), member.axis, 0)
    return weights[member.indices].reshape(len(member.indices), -1)


def _made_by(group: Group, evidence: Evidence) -> list[np.ndarray]:
    """The incoming weights of each neuron, for each layer that makes it."""
    found = [_rows(m, evidence) for m in group.members if m.role == "out" and m.path in evidence.params]
    if not found:
        raise ValueError(f"no kernel makes the neurons of {group.name}; use a score of data, as taylor_gate.")
    return found


def _averaged(group: Group, evidence: Evidence, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Neurons that several layers make, as those of a residual stream, have the mean of their scores."""
    return np.mean([measure(rows) for rows in _made_by(group, evidence)], 0)


def l1(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`\sum |w_i|` over the incoming weights (Li et al., 2017)."""
    return _averaged(group, evidence, lambda rows: np.abs(rows).sum(1))


def l2(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`\|w_i\|_2` of the incoming weights."""
    return _averaged(group, evidence, lambda rows: np.sqrt((rows**2).sum(1)))


def bn_gamma(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`|\gamma_i|` of the norms behind the layer (Liu et al., Network Slimming, 2017)."""
    scales = [
        np.abs(_rows(m, evidence)).mean(1)
        for m in group.members
        if m.role == "other" and m.path in evidence.params and m.path[-1] == "scale"
    ]
    if not scales:
        raise ValueError(f"no norm with a scale is behind {group.name}; use l2.")
    return np.mean(scales, 0)


def group_magnitude(group: Group, evidence: Evidence) -> np.ndarray:
    r"""Mean over all members of :math:`\sum w^2`: incoming and outgoing weights, scale, bias (Fang et al., 2023)."""
    members = [(_rows(m, evidence) ** 2).sum(1) for m in group.members if m.path in evidence.params]
    return np.mean(members, 0)


def fpgm(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`\sum_j \|w_i - w_j\|_2`: small for one that others can stand in for (He et al., FPGM, 2019)."""

    def distances(rows: np.ndarray) -> np.ndarray:
        squares = (rows**2).sum(1)
        # Rounding may leave a difference of equals below 0.
        return np.sqrt(np.maximum(squares[:, None] + squares - 2 * rows @ rows.T, 0)).sum(1)

    return _averaged(group, evidence, distances)


def random(group: Group, evidence: Evidence) -> np.ndarray:
    """Chance, as a control."""
    # Another number for each group, the same each time.
    return np.random.default_rng([evidence.seed, *group.name.encode()]).random(group.size)


def _sums(group: Group, evidence: Evidence) -> Any:
    if group.name not in evidence.activations:
        raise ValueError(f"the activations of {group.name} cannot be followed; use a score of weights.")
    return evidence.activations[group.name]


def mean_activation(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`E|a_i|` over examples and positions."""
    sums = _sums(group, evidence)
    return sums.absolute / sums.values


def std_activation(group: Group, evidence: Evidence) -> np.ndarray:
    r"""The standard deviation of :math:`a_i` over examples and positions."""
    sums = _sums(group, evidence)
    return np.sqrt(np.maximum(sums.m2 / sums.values, 0))


def apoz(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`1 - E\,1[a_i = 0]`: the share of examples and positions where it is not 0 (Hu et al., 2016)."""
    sums = _sums(group, evidence)
    return 1 - sums.zeros / sums.values


def taylor_activation(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`E_n |\mathrm{mean}_{hw}\; a_i\, \partial L_n/\partial a_i|` (Molchanov et al., 2017).

    The absolute value of each example: over a whole epoch signs would cancel.
    """
    sums = _sums(group, evidence)
    return sums.taylor / sums.examples


def taylor_gate(group: Group, evidence: Evidence) -> np.ndarray:
    r""":math:`E_n (\partial L_n/\partial g_i)^2` with a gate g = 1 on the neuron (Molchanov et al., 2019).

    The square of each example: with that of a batch's mean, as there, it would depend on how the data are cut.
    """
    sums = _sums(group, evidence)
    return sums.gate / sums.examples


SCORES: dict[str, Kind] = {
    "l1": Kind(l1, "weights"),
    "l2": Kind(l2, "weights"),
    "bn_gamma": Kind(bn_gamma, "weights"),
    "group_magnitude": Kind(group_magnitude, "weights"),
    "fpgm": Kind(fpgm, "weights"),
    "random": Kind(random, "weights"),
    "mean_activation": Kind(mean_activation, "data"),
    "std_activation": Kind(std_activation, "data"),
    "apoz": Kind(apoz, "data"),
    "taylor_activation": Kind(taylor_activation, "data"),
    "taylor_gate": Kind(taylor_gate, "data"),
}


def score(
    neurons: Neurons, variables: Any, name: str, *, activations: Any = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Scores of all neurons of a network.

    Args:
      neurons: as ``trace`` found them.
      variables: of the network.
      name: one of ``SCORES``.
      activations: as ``ActivationProbe`` measures them, for scores that need data.
      seed: of the score ``random``.

    Returns:
      A number for each neuron of each group, the higher the better.

    Raises:
      ValueError: the name is not known, the score needs data and there are none, or a group has not what it needs.
    """
    if name not in SCORES:
        raise ValueError(f"score={name!r} is not known; use {', '.join(SCORES)}.")
    kind = SCORES[name]
    if kind.needs == "data" and activations is None:
        free = [other for other, kind in SCORES.items() if kind.needs == "weights"]
        raise ValueError(f"score={name} needs data, and there are none; use one of {', '.join(free)}.")
    params = {path: leaf for path, leaf in leaf_paths(variables).items() if path[0] == "params"}
    evidence = Evidence({path: jnp.asarray(leaf) for path, leaf in params.items()}, activations, seed)
    try:
        return {group.name: kind.function(group, evidence) for group in neurons.groups}
    except ValueError as error:
        raise ValueError(f"score={name}: {error}") from error
