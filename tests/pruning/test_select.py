"""Which neurons stay."""

import numpy as np
import pytest

from normjax.pruning.select import at_multiples, everything

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


def test_a_width_that_cannot_grow_stays(scores):
    # It went down instead, from 13 to 8.
    before = everything(SIZES) | {"narrow": tuple(range(14))}
    kept = before | {"narrow": best(scores["narrow"], before["narrow"], 13)}
    assert at_multiples(scores, kept, before, 8) == kept


def test_limits_hold_where_widths_are_cut(scores):
    whole = everything(SIZES)
    kept = {name: best(scores[name], whole[name], 17 if name == "wide" else 9) for name in SIZES}
    assert at_multiples(scores, kept, whole, 8, min_keep=0.26)["wide"] == kept["wide"]
    cut = at_multiples(scores, kept, whole, 8, protected=("narrow",))
    assert cut["narrow"] == kept["narrow"]
    assert len(cut["wide"]) == 16
    assert at_multiples(scores, kept, whole, 1) == kept


def test_of_equal_scores_the_same_go_as_when_they_are_ranked():
    whole = everything({"a": 4})
    assert at_multiples({"a": [1.0] * 4}, {"a": (1, 2, 3)}, whole, 2, min_keep=0.0)["a"] == (0, 1, 2, 3)
    assert at_multiples({"a": [1.0] * 5}, {"a": (0, 1, 2, 3, 4)}, everything({"a": 5}), 4)["a"] == (1, 2, 3, 4)
