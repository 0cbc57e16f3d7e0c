"""What a search tells of its rounds and of what it found."""

from typing import Any, NamedTuple

from normjax.pruning.select import Kept


class Round(NamedTuple):
    """One trial of a smaller network."""

    number: int
    neurons: int  # left
    parameters: int
    multiply_adds: int  # of one image
    accuracy: float  # on the validation split, after fine-tuning
    step: float  # share of the neurons that was to go
    accepted: bool
    widths: dict[str, int]


class Cut(NamedTuple):
    """Whether widths were cut to a multiple: if it saves a larger share of the time of a batch than of the products."""

    taken: bool
    milliseconds_cut: float
    milliseconds_uncut: float
    # None where a search was begun before they were noted.
    products: float | None = None  # of the cut network, as a share of those of the other
    even: int | None = None  # widths that are multiples


class Found(NamedTuple):
    """The smallest network that met the target."""

    kept: Kept
    variables: dict[str, Any]  # of the whole network, with zeros
    rounds: list[Round]  # the first one is the network as it was
    cut: Cut | None  # None where there was nothing to cut
    target: float | None  # validation accuracy that had to hold; None where only the size counted
