"""Scores of layers made comparable, the choice among all, and how much the layer decides of it."""

import numpy as np
import pytest

from normjax.pruning import DEBIASES, debiased, everything, layer_bias, same_share, without_lowest

SCORES = {"wide": np.array([4.0, 1.0, 3.0, 2.0, 5.0, 6.0]), "narrow": np.array([30.0, 10.0])}
SIZES = {"wide": 6, "narrow": 2}
FREE_OF_SCALE = set(DEBIASES) - {"none"}


@pytest.mark.parametrize(
    ("name", "wide", "narrow"),
    [
        ("none", [4, 1, 3, 2, 5, 6], [30, 10]),
        ("mean", np.array([4, 1, 3, 2, 5, 6]) / 3.5, [1.5, 0.5]),
        ("l2", np.array([4, 1, 3, 2, 5, 6]) / np.sqrt(91), np.array([3, 1]) / np.sqrt(10)),
        ("max", np.array([4, 1, 3, 2, 5, 6]) / 6, [1, 1 / 3]),
        ("zscore", (np.array([4, 1, 3, 2, 5, 6]) - 3.5) / np.sqrt(35 / 12), [1, -1]),
        ("minmax", np.array([3, 0, 2, 1, 4, 5]) / 5, [1, 0]),
        ("median", np.array([4, 1, 3, 2, 5, 6]) / 3.5, [1.5, 0.5]),
        ("lamp", [4 / 15, 1 / 21, 3 / 18, 2 / 20, 5 / 11, 1], [1, 1 / 4]),
        ("rank", [7 / 12, 1 / 12, 5 / 12, 3 / 12, 9 / 12, 11 / 12], [3 / 4, 1 / 4]),
    ],
)
def test_each_is_its_formula(name, wide, narrow):
    found = debiased(SCORES, name)
    np.testing.assert_allclose(found["wide"], wide, rtol=1e-7)
    np.testing.assert_allclose(found["narrow"], narrow, rtol=1e-7)


@pytest.mark.parametrize("name", sorted(FREE_OF_SCALE))
def test_the_scale_of_a_layer_does_not_decide(name):
    # A layer whose weights are ten times as large, which the norm behind it undoes, is no better for that.
    # Squared derivatives of a network that fits its data well may be of any size: a floor once took the whole layer.
    for factor in (10, 1e-14):
        scaled = debiased({"wide": factor * SCORES["wide"], "narrow": SCORES["narrow"]}, name)
        for group, values in debiased(SCORES, name).items():
            np.testing.assert_allclose(scaled[group], values, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(DEBIASES))
@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [2.0, 2.0], [5.0], [0.0, 0.0, 1.0], [0.1, 0.1, 0.1]])
def test_layers_of_equal_or_no_scores_give_numbers(name, values):
    found = debiased({"a": values}, name)["a"]
    assert np.isfinite(found).all()
    if name == "zscore" and len(set(values)) == 1:
        assert (found == 0).all()


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="debias='sum' is not known; use none, mean"):
        debiased(SCORES, "sum")
    with pytest.raises(ValueError, match="scores of a are not finite"):
        debiased({"a": [1.0, np.nan]}, "mean")
    with pytest.raises(ValueError, match="scores of a are negative, and debias='mean' divides by them"):
        debiased({"a": [1.0, -1.0]}, "mean")


def test_the_layer_explains_ranks_before_and_less_after():
    rng = np.random.default_rng(0)
    # Four layers alike but for their scale.
    scores = {str(scale): scale * rng.uniform(0.5, 1.5, 64) for scale in (1, 5, 25, 125)}
    assert layer_bias(scores) > 0.9
    for name in FREE_OF_SCALE:
        assert layer_bias(debiased(scores, name)) < 0.05
    assert layer_bias(debiased(scores, "rank")) < 1e-6
    assert layer_bias({"a": [1.0, 1.0], "b": [1.0]}) == 0


def test_the_lowest_of_all_go():
    kept = without_lowest(SCORES, everything(SIZES), 3, layer_cap=1.0)
    assert kept == {"wide": (0, 4, 5), "narrow": (0, 1)}
    debiased_kept = without_lowest(debiased(SCORES, "mean"), everything(SIZES), 3, layer_cap=1.0)
    assert debiased_kept == {"wide": (0, 2, 4, 5), "narrow": (0,)}
    # Those that are gone stay gone.
    assert without_lowest(SCORES, kept, 1) == {"wide": (4, 5), "narrow": (0, 1)}


def test_limits_hold():
    whole = everything(SIZES)
    # A third of six stays at least; half of a layer goes at once.
    assert without_lowest(SCORES, whole, 9, min_keep=1 / 3, layer_cap=1.0) == {"wide": (4, 5), "narrow": (0,)}
    assert without_lowest(SCORES, whole, 9, layer_cap=0.5) == {"wide": (0, 4, 5), "narrow": (0,)}
    assert without_lowest(SCORES, whole, 9, min_keep=0.0, layer_cap=1.0) == {"wide": (5,), "narrow": (0,)}
    assert without_lowest(SCORES, whole, 9, protected=["wide"]) == {"wide": tuple(range(6)), "narrow": (0,)}
    assert without_lowest(SCORES, whole, 0) == whole


def test_equal_scores_are_decided_the_same_each_time():
    equal = {"b": np.ones(4), "a": np.ones(4)}
    assert without_lowest(equal, everything({"b": 4, "a": 4}), 1) == {"b": (1, 2, 3), "a": (0, 1, 2, 3)}


def test_the_same_share_of_each_layer():
    assert same_share(SCORES, 0.5) == {"wide": (0, 4, 5), "narrow": (0,)}
    # A ranking of all together after the debiasing by rank takes the same.
    ranked = without_lowest(debiased(SCORES, "rank"), everything(SIZES), 4, layer_cap=1.0)
    assert ranked == same_share(SCORES, 0.5)
    with pytest.raises(ValueError, match=r"share=1 is out of range; use 0 to below 1\."):
        same_share(SCORES, 1.0)


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match=r"min_keep=-0\.1 is out of range; use 0 to 1\."):
        without_lowest(SCORES, everything(SIZES), 1, min_keep=-0.1)
    with pytest.raises(ValueError, match="protected='head' is no group of neurons; use wide, narrow"):
        without_lowest(SCORES, everything(SIZES), 1, protected=["head"])
