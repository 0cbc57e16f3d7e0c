"""Which elements of the dimensions of a program must live or die together.

Every element of every dimension has an atom. What a program does to its values ties atoms; those that are tied,
directly or by others, are one component: a neuron with all that belongs to it.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from normjax.tracing.program import Path

Labels = np.ndarray  # atoms of the elements of one dimension
FIXED = 0  # of an element that no variable decides, as a row of the batch: it is always there


class Origin(NamedTuple):
    """The dimension of a variable that a dimension is."""

    path: Path
    axis: int


class Dim(NamedTuple):
    """One dimension of a value."""

    labels: Labels
    zero: bool  # whether the value is 0 at an element when the parameters are 0 there
    origin: Origin | None = None
    true: bool = False  # whether it is True there


class Value(NamedTuple):
    """What is known of a value of the program."""

    dims: tuple[Dim, ...]
    null: bool = False  # whether it is 0 everywhere
    given: bool = False  # whether an input of the network has a part in it

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(len(dim.labels) for dim in self.dims)


class Components(NamedTuple):
    """The atoms, sorted into what lives or dies together."""

    of_atom: np.ndarray  # component by the number of an atom, of which weak ones follow the strong ones
    strong: int  # atoms of variables, 0 included
    held: dict[int, tuple[str, ...]]  # components that must stay as they are, and the reasons

    def of(self, labels: Labels) -> np.ndarray:
        """Components of labels; those of fixed elements have -1."""
        number = np.where(labels >= 0, labels, self.strong - 1 - labels)
        return np.where(labels == FIXED, -1, self.of_atom[number])


class Atoms:
    """Hands out atoms, and remembers which were tied and which must stay.

    Atoms of variables are positive numbers; weak ones, of dimensions made in the program (by a broadcast), negative.
    """

    def __init__(self) -> None:
        self._strong, self._weak = 1, 0
        self._ties: list[np.ndarray] = []
        self._held: list[tuple[Labels, str]] = []
        self.unsized: list[tuple[Labels, str]] = []  # of dimensions whose size cannot change, whatever their values
        self.sizes_only = False  # while what is computed does not matter, as in a derivative

    def strong(self, count: int) -> Labels:
        """New atoms for a dimension of a variable."""
        self._strong += count
        return np.arange(self._strong - count, self._strong)

    def weak(self, count: int) -> Labels:
        """New atoms for a dimension that the program makes."""
        self._weak += count
        return -np.arange(self._weak - count + 1, self._weak + 1)

    def tie(self, a: Labels, b: Labels, reason: str) -> Labels:
        """Makes two dimensions live or die together, and returns the labels of both.

        Args:
          a: labels.
          b: as many.
          reason: said of what is held because the other is fixed.
        """
        if a is b:
            return a
        fixed = (a == FIXED) | (b == FIXED)
        if fixed.any():
            self.hold(a[fixed], reason, sized=False)
            self.hold(b[fixed], reason, sized=False)
        differ = (a != b) & ~fixed
        if differ.any():
            self._ties.append(np.stack([a[differ], b[differ]]))
        return np.where(fixed, FIXED, np.maximum(a, b))

    def hold(self, labels: Labels, reason: str, *, sized: bool = True) -> None:
        """Keeps elements whole.

        Args:
          labels: the elements.
          reason: why.
          sized: whether the program could run at another size of the dimension, though with another meaning.
        """
        labels = labels[labels != FIXED]
        if labels.size and not (sized and self.sizes_only):
            self._held.append((labels, reason))
            if not sized:
                self.unsized.append((labels, reason))

    def components(self) -> Components:
        """Sorts the atoms by what was tied."""
        total = self._strong + self._weak
        ties = np.concatenate([np.empty((2, 0), int), *self._ties], 1)
        ties = np.where(ties >= 0, ties, self._strong - 1 - ties)
        graph = coo_array((np.ones(ties.shape[1], np.int8), (ties[0], ties[1])), shape=(total, total))
        _, of_atom = connected_components(graph, directed=False)
        found = Components(of_atom, self._strong, {})
        reasons: dict[int, dict[str, None]] = {}
        for labels, reason in self._held:
            for component in np.unique(found.of(labels)).tolist():
                reasons.setdefault(component, {})[reason] = None
        return found._replace(held={component: tuple(said) for component, said in reasons.items()})
