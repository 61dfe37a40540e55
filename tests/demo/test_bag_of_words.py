"""The bag-of-words baseline: right where words decide, lost where the prompt does."""

from __future__ import annotations

import math

import pytest

from plumbline.demo import annotators, bag_of_words
from plumbline.demo.golds import GOLDS


def test_it_counts_words_stops_and_pairs():
    assert bag_of_words.phrases("A fox. A fox") == {"a": 2, "fox": 2, ".": 1, "a fox": 2, "fox .": 1, ". a": 1}


def test_it_finds_the_hand_worked_optimum():
    """One feature, n comparisons of which a share q prefers it: without a penalty, sigmoid(w) = q."""
    comparisons = [("", "good", "")] * 75 + [("", "", "good")] * 25
    fitted = bag_of_words.fit(comparisons, l2=0.0)
    assert fitted.weights["good"] == pytest.approx(math.log(3), abs=1e-3)  # q = 0.75: log(0.75 / 0.25)
    assert fitted.accuracy(comparisons) == 0.75


def test_it_counts_ties_half():
    assert bag_of_words.BagOfWords({}).accuracy([("", "one", "two")]) == 0.5


def test_it_learns_nothing_from_equal_texts():
    assert bag_of_words.fit([("", "same", "same")] * 10).weights == {}


def test_it_needs_comparisons():
    with pytest.raises(ValueError, match="at least one"):
        bag_of_words.fit([])
    with pytest.raises(ValueError, match="at least one"):
        bag_of_words.BagOfWords({}).accuracy([])


def measured(gold: str) -> tuple[float, float]:
    """(the baseline's accuracy on fresh noisy labels, the gold order's own) after 800 rankings."""
    fitted = bag_of_words.fit(annotators.labelled_comparisons(gold, n_prompts=800, seed=41))
    fresh = annotators.labelled_comparisons(gold, n_prompts=400, seed=42, pool="eval")
    return fitted.accuracy(fresh), annotators.ceiling(GOLDS[gold], fresh)


def test_it_reaches_the_ceiling_on_a_plain_style():
    accuracy, ceiling = measured("style")
    assert accuracy > ceiling - 0.05


@pytest.mark.parametrize("gold", ["bound", "held_out_a", "held_out_b", "bound_negated"])
def test_it_stays_well_below_the_ceiling_on_tastes_bound_to_the_prompt(gold):
    accuracy, ceiling = measured(gold)
    assert 0.5 < accuracy < ceiling - 0.12
