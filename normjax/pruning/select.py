"""Which neurons go: those with the lowest scores of all layers together."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Kept = dict[str, tuple[int, ...]]  # the neurons that stay, by group


def everything(sizes: Mapping[str, int]) -> Kept:
    """All neurons of all groups."""
    return {name: tuple(range(size)) for name, size in sizes.items()}


def gone(sizes: Mapping[str, int], kept: Mapping[str, Sequence[int]]) -> dict[str, set[int]]:
    """The neurons that do not stay, by group.

    Example:
      >>> gone({"a": 3, "b": 2}, {"a": (0, 2)})
      {'a': {1}, 'b': set()}
    """
    return {name: set(range(size)) - set(kept.get(name, range(size))) for name, size in sizes.items()}


def of_the_original(before: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> Kept:
    """Neurons that stay, counted in the network that was pruned first.

    Args:
      before: what an earlier pruning left, by group; groups not named were whole.
      found: what stays of that.

    Example:
      >>> of_the_original({"a": (2, 5, 7), "c": (4,)}, {"a": (0, 2), "b": (1,)})
      {'a': (2, 7), 'c': (4,), 'b': (1,)}
    """
    left = {
        name: tuple(before[name][number] for number in numbers) if name in before else tuple(numbers)
        for name, numbers in found.items()
    }
    # What has one neuron left may be no group any more.
    return {name: tuple(numbers) for name, numbers in before.items()} | left


def without_lowest(
    scores: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]],
    count: int,
    *,
    min_keep: float = 0.1,
    layer_cap: float = 0.5,
    protected: Sequence[str] = (),
) -> Kept:
    """Takes the neurons with the lowest scores of all groups together.

    Args:
      scores: of all neurons of each group, the higher the better, comparable between groups.
      kept: the neurons that are still there.
      count: how many go; fewer where the limits leave fewer.
      min_keep: share of a group's neurons that stays in any case, one neuron at least.
      layer_cap: largest share of what a group still has that goes at once.
      protected: groups that stay as they are.

    Returns:
      The neurons that stay.

    Raises:
      ValueError: the count or a limit is out of range, a score is NaN, or a protected group is not there.

    Example:
      >>> without_lowest({"a": [1.0, 2.0, 9.0], "b": [3.0, 8.0]}, everything({"a": 3, "b": 2}), 2)
      {'a': (1, 2), 'b': (1,)}
    """
    if count != int(count) or count < 0:
        raise ValueError(f"count={count} is no number of neurons; use 0 or more.")
    _check_limits(scores, protected, min_keep=min_keep, layer_cap=layer_cap)
    free, candidates = {}, []
    for name, values in scores.items():
        if name in protected:
            continue
        left, least = len(kept[name]), max(1, math.ceil(min_keep * len(values)))
        free[name] = min(left - least, max(1, math.floor(layer_cap * left)))
        candidates += [(float(values[index]), name, index) for index in kept[name]]
    gone: dict[str, set[int]] = {name: set() for name in scores}
    # Equal scores: the first of the first group, so that the choice is the same each time.
    for _, name, index in sorted(candidates, key=lambda candidate: candidate[0]):
        if sum(map(len, gone.values())) == count:
            break
        if len(gone[name]) < free[name]:
            gone[name].add(index)
    return {name: tuple(index for index in kept[name] if index not in gone[name]) for name in scores}


def _check_limits(scores: Mapping[str, Any], protected: Sequence[str], **shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name}={share:g} is out of range; use 0 to 1.")
    if unknown := [name for name in protected if name not in scores]:
        raise ValueError(f"protected={unknown[0]!r} is no group of neurons; use {', '.join(scores)}.")
    if broken := [name for name, values in scores.items() if np.isnan(np.asarray(values, np.float64)).any()]:
        raise ValueError(f"scores of {broken[0]} are not all numbers; a NaN has no place in a ranking.")


def at_multiples(
    scores: Mapping[str, Any],
    kept: Mapping[str, Sequence[int]],
    before: Mapping[str, Sequence[int]],
    multiple: int,
    *,
    each: Mapping[str, int] | None = None,
    min_keep: float = 0.1,
    protected: Sequence[str] = (),
) -> Kept:
    """Widens or narrows each group to the nearest multiple of features, which processors calculate faster.

    Args:
      scores: of all neurons of each group, the higher the better.
      kept: the neurons that are to stay; a group between two multiples gets the greater one.
      before: those that there are, the best of which come back where a group is widened. A group that would need more
        goes to the next lower multiple where that takes at most a quarter of it, and else stays as it is.
      multiple: of features, 1 or more.
      each: features of a neuron of each group; None is one. Of several, as with groups of channels, so many neurons are
        taken together that their features are a multiple.
      min_keep: share of a group's neurons that stays in any case, one neuron at least.
      protected: groups that stay as they are.

    Returns:
      The neurons that stay.

    Raises:
      ValueError: the multiple or the share is out of range, or a protected group is not there.

    Example:
      >>> scores = {"a": [5.0, 1.0, 4.0, 3.0, 2.0], "b": [1.0, 2.0, 3.0, 4.0, 5.0]}
      >>> at_multiples(scores, {"a": (0, 2, 3), "b": (3, 4)}, everything({"a": 5, "b": 5}), 4)
      {'a': (0, 2, 3, 4), 'b': (1, 2, 3, 4)}
    """
    if multiple < 1:
        raise ValueError(f"multiple={multiple} is out of range; use 1 or more.")
    _check_limits(scores, protected, min_keep=min_keep)
    cut = {name: tuple(numbers) for name, numbers in kept.items()}
    for name, values in scores.items():
        step = multiple // math.gcd(multiple, (each or {}).get(name, 1))
        width = (2 * len(kept[name]) + step) // (2 * step) * step
        if width > len(before[name]) and 4 * (width - step) >= 3 * len(kept[name]):
            width -= step
        least = max(1, math.ceil(min_keep * len(values)))
        if name not in protected and least <= width <= len(before[name]):
            there = np.asarray(before[name])
            lowest = np.argsort(np.asarray(values, np.float64)[there], kind="stable")
            cut[name] = tuple(sorted(there[lowest[len(there) - width :]].tolist()))
    return cut


def same_share(scores: Mapping[str, Any], share: float) -> Kept:
    """As large a share of each group, without a ranking of all together: the equal ratio for comparison.

    Args:
      scores: of all neurons of each group.
      share: that goes, 0 to below 1.

    Raises:
      ValueError: the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share={share:g} is out of range; use 0 to below 1.")
    kept = {}
    for name, values in scores.items():
        stays = max(1, len(values) - round(share * len(values)))
        best = np.argsort(-np.asarray(values, np.float64), kind="stable")[:stays]
        kept[name] = tuple(sorted(best.tolist()))
    return kept
