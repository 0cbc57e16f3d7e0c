"""Which neurons stay."""

import numpy as np
import pytest

from normjax.pruning.select import at_multiples, everything, without_lowest

SIZES = {"wide": 64, "narrow": 16}


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    return {name: rng.permutation(size).astype(np.float64) for name, size in SIZES.items()}


def best(scores, numbers, width):
    return tuple(sorted(sorted(numbers, key=lambda index: scores[index])[len(numbers) - width :]))


@pytest.mark.parametrize(("width", "nearest"), [(63, 64), (60, 64), (59, 56), (9, 8), (8, 8), (4, 8), (3, 3)])
def test_a_width_goes_to_the_nearest_multiple(scores, width, nearest):
    whole = everything(SIZES)
    kept = whole | {"wide": best(scores["wide"], whole["wide"], width)}
    cut = at_multiples(scores, kept, whole, 8, min_keep=0.0)
    assert cut == whole | {"wide": best(scores["wide"], whole["wide"], nearest)}


def test_a_width_that_cannot_grow_stays_where_it_would_lose_much(scores):
    # It went down in any case, from 13 to 8.
    before = everything(SIZES) | {"narrow": tuple(range(14)), "wide": tuple(range(46))}
    kept = {name: best(scores[name], before[name], width) for name, width in (("narrow", 13), ("wide", 45))}
    cut = at_multiples(scores, kept, before, 8)
    assert cut == {"narrow": kept["narrow"], "wide": best(scores["wide"], before["wide"], 40)}


def test_what_cannot_be_ranked_is_refused(scores):
    whole = everything(SIZES)
    for multiple in (0, -8):
        with pytest.raises(ValueError, match=f"multiple={multiple} is out of range; use 1 or more"):
            at_multiples(scores, whole, whole, multiple)
    with pytest.raises(ValueError, match="protected='typo' is no group of neurons; use wide, narrow"):
        at_multiples(scores, whole, whole, 8, protected=("typo",))
    for count in (-1, 1.5):
        with pytest.raises(ValueError, match=f"count={count} is no number of neurons"):
            without_lowest(scores, whole, count)
    with pytest.raises(ValueError, match="scores of narrow are not all numbers"):
        without_lowest(scores | {"narrow": np.full(16, np.nan)}, whole, 1)


def test_limits_hold_where_widths_are_cut(scores):
    whole = everything(SIZES)
    kept = {name: best(scores[name], whole[name], 17 if name == "wide" else 9) for name in SIZES}
    assert at_multiples(scores, kept, whole, 8, min_keep=0.26)["wide"] == kept["wide"]
    cut = at_multiples(scores, kept, whole, 8, protected=("narrow",))
    assert cut["narrow"] == kept["narrow"]
    assert len(cut["wide"]) == 16
    assert at_multiples(scores, kept, whole, 1) == kept


def test_a_multiple_is_one_of_features():
    # Neurons of four channels each were cut to eight of them, 32 channels.
    whole = everything({"a": 10, "b": 10})
    scores = {name: np.arange(10.0) for name in whole}
    cut = at_multiples(scores, {name: tuple(range(5, 10)) for name in whole}, whole, 8, each={"a": 4, "b": 3})
    assert {name: len(numbers) for name, numbers in cut.items()} == {"a": 6, "b": 8}


def test_of_equal_scores_the_same_go_as_when_they_are_ranked():
    whole = everything({"a": 4})
    assert at_multiples({"a": [1.0] * 4}, {"a": (1, 2, 3)}, whole, 2, min_keep=0.0)["a"] == (0, 1, 2, 3)
    assert at_multiples({"a": [1.0] * 5}, {"a": (0, 1, 2, 3, 4)}, everything({"a": 5}), 4)["a"] == (1, 2, 3, 4)
