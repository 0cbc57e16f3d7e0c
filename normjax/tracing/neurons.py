"""The neurons of a network: what has to go together when one of them goes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from normjax.tracing.dimensions import Components, Origin
from normjax.tracing.follow import follow
from normjax.tracing.program import Path, capture, leaf_paths
from normjax.tracing.resize import Alive

Role = Literal["out", "in", "other"]
Left = Mapping[str, Sequence[int]]  # the neurons that stay, by group; groups not named stay whole


class Member(NamedTuple):
    """What the neurons of a group have in one dimension of a variable."""

    path: Path
    axis: int
    indices: np.ndarray  # (neurons, elements of each)
    role: Role  # out: makes the neuron, as a kernel or an embedding does; in: reads it; other: as bias and statistics


class Group(NamedTuple):
    """Neurons of the same kind: any of them can go, with all its members."""

    name: str  # path of the first layer that makes them
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """How many neurons there are."""
        return len(self.members[0].indices)

    @property
    def features(self) -> int:
        """Of a neuron, in the layer that makes it: several where channels form groups."""
        made = [member for member in self.members if member.role == "out"]
        return (made or self.members)[0].indices.shape[1]


class Whole(NamedTuple):
    """Features of a layer that cannot be removed."""

    path: Path
    axis: int
    reasons: tuple[str, ...]


class Neurons(NamedTuple):
    """The neurons of a network."""

    groups: tuple[Group, ...]
    whole: tuple[Whole, ...]  # what could be neurons and must stay
    shapes: Any  # of the variables

    def groups_of(self, layers: Sequence[str]) -> tuple[str, ...]:
        """The groups of the neurons that layers make; none for a layer that stays whole.

        Args:
          layers: names of groups, or of layers, as ``block/conv``.

        Raises:
          ValueError: there is no such layer.
        """
        made: dict[str, list[str]] = {"/".join(path[1:-1]): [] for path, *_ in self.whole}
        for group in self.groups:
            for member in group.members:
                if member.role == "out":
                    made.setdefault("/".join(member.path[1:-1]), []).append(group.name)
        for group in self.groups:
            made.setdefault(group.name, [group.name])  # one of several that a layer makes
        if unknown := [name for name in layers if name not in made]:
            raise ValueError(f"{unknown[0]} is no layer of this network; use {', '.join(g.name for g in self.groups)}.")
        return tuple(dict.fromkeys(name for layer in layers for name in made[layer]))

    def alive(self, left: Left) -> Alive:
        """Which elements of the variables are left with some of the neurons.

        Args:
          left: the neurons that stay.

        Raises:
          ValueError: there is no such group or neuron, or none of a group would be left.
        """
        groups = {group.name: group for group in self.groups}
        leaves = leaf_paths(self.shapes)
        alive: Alive = {}
        for name, kept in left.items():
            if name not in groups:
                raise ValueError(f"kept={name!r} is no group of neurons of this network; use {', '.join(groups)}.")
            group = groups[name]
            stays = np.zeros(group.size, bool)
            numbers = np.asarray(kept, int)
            if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= group.size:
                raise ValueError(f"kept[{name!r}]={list(kept)} must name one neuron or more of 0 to {group.size - 1}.")
            stays[numbers] = True
            for member in group.members:
                place = (member.path, member.axis)
                size = leaves[member.path].shape[member.axis]
                alive.setdefault(place, np.ones(size, bool))[member.indices[~stays].reshape(-1)] = False
        return alive


def trace(model: Any, variables: Any, example: Any, **options: Any) -> Neurons:
    """Finds which dimensions of the variables belong together, in any Flax model.

    The network is traced, and every element of every dimension of its variables followed through it: what is added is
    tied, what is summed over is tied to the kernel that reads it, joined parts keep their own. No name of a layer and
    no change of the model's code is needed. What cannot be followed stays whole and is named.

    Args:
      model: a Flax Linen model (or anything with ``apply(variables, example, **options)``).
      variables: its variables, or their shapes.
      example: an input, or a tuple of inputs, or their shapes.
      **options: keyword arguments of the model at inference, for example ``train=False``.

    Returns:
      Groups of neurons, and what stays whole.

    Example:
      >>> from flax import linen as nn
      >>> import jax.numpy as jnp
      >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])
      >>> x = jnp.ones((2, 4))
      >>> (group,) = trace(model, model.init(jax.random.key(0), x), x).groups
      >>> group.name, group.size, [(member.path[-1], member.role) for member in group.members]
      ('layers_0', 8, [('kernel', 'out'), ('bias', 'other'), ('kernel', 'in')])

    References:
      Fang et al., `DepGraph: Towards Any Structural Pruning <https://arxiv.org/abs/2301.12900>`_, 2023 (the dependency
      of layers; here of elements).
    """
    args = example if isinstance(example, tuple) else (example,)
    shapes = jax.eval_shape(lambda tree: tree, variables)
    tracer, outputs, _ = follow(capture(model.apply, shapes, *args, **options))
    for value in outputs:
        tracer.hold(value, "an output of the network")
    components = tracer.atoms.components()
    places = [Origin(path, axis) for path in tracer.order for axis in range(len(tracer.variables[path].dims))]
    of_place = {place: components.of(tracer.variables[place.path].dims[place.axis].labels) for place in places}
    roles: dict[Origin, Role] = dict.fromkeys(places, "other")
    roles |= dict.fromkeys(tracer.consumed, "in")
    roles |= dict.fromkeys(tracer.produced, "out")
    return Neurons(_groups(of_place, roles, components), _whole(of_place, roles, components), shapes)


def _groups(of_place: dict[Origin, np.ndarray], roles: dict[Origin, Role], found: Components) -> tuple[Group, ...]:
    """Components with elements in the same dimensions, as many in each, are neurons of one group."""
    elements: dict[int, dict[Origin, list[int]]] = {}
    for place, of_element in of_place.items():
        for index, component in enumerate(of_element.tolist()):
            if component not in found.held:
                elements.setdefault(component, {}).setdefault(place, []).append(index)
    kinds: dict[Sequence[tuple[Origin, int]], list[dict[Origin, list[int]]]] = {}
    for parts in elements.values():
        if any(roles[place] != "other" for place in parts):
            kinds.setdefault(tuple((place, len(indices)) for place, indices in parts.items()), []).append(parts)
    groups, named = [], Counter[str]()
    for kind, neurons in kinds.items():
        members = tuple(
            Member(place.path, place.axis, np.array([parts[place] for parts in neurons]), roles[place])
            for place, _ in kind
        )
        first = next((member for member in members if member.role == "out"), members[0])
        name = "/".join(first.path[1:-1]) or first.path[-1]
        named[name] += 1
        groups.append(Group(name if named[name] == 1 else f"{name}#{named[name]}", members))
    return tuple(groups)


def _whole(of_place: dict[Origin, np.ndarray], roles: dict[Origin, Role], found: Components) -> tuple[Whole, ...]:
    kept = []
    for place, of_element in of_place.items():
        held = [component for component in np.unique(of_element).tolist() if component in found.held]
        if held and roles[place] == "out":
            reasons = dict.fromkeys(reason for component in held for reason in found.held[component])
            kept.append(Whole(place.path, place.axis, tuple(reasons)))
    return tuple(kept)
