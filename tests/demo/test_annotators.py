"""Simulated annotators: imperfect in measured ways."""

from __future__ import annotations

import random
from statistics import fmean

import pytest

from plumbline.demo import annotators
from plumbline.demo.annotators import SimulatedAnnotator
from plumbline.demo.golds import GOLDS


@pytest.fixture(scope="module")
def draws():
    return annotators.corpus_draws(60, 4, seed=31)


@pytest.mark.parametrize("gold", GOLDS)
def test_it_agrees_with_another_on_about_73_percent_of_pairs(gold):
    assert 0.70 <= annotators.agreement(gold, n_prompts=800, seed=1) <= 0.76


@pytest.mark.parametrize("gold", GOLDS)
def test_its_ceiling_lies_above_the_agreement_and_below_one(gold):
    assert 0.74 < annotators.ceiling(gold) < 0.85


def test_it_ranks_every_completion_once(draws):
    for n_texts in (1, 2, 4):
        for prompt, texts in draws[:20]:
            order = SimulatedAnnotator(1, "bound").rank(prompt, texts[:n_texts])
            assert sorted(i for group in order for i in group) == list(range(n_texts))
    assert SimulatedAnnotator(1, "bound").rank("anything", []) == []


def test_it_repeats_itself_for_the_same_seed_and_cards_alone(draws):
    prompts = [(prompt, texts) for prompt, texts in draws]

    def rankings(seed, cards):
        person = SimulatedAnnotator(seed, "bound")
        return {prompt: person.rank(prompt, texts) for prompt, texts in cards}

    assert rankings(7, prompts) == rankings(7, prompts[::-1])  # in whatever order the tasks come
    assert rankings(7, prompts) != rankings(8, prompts)


def test_it_mostly_but_not_always_repeats_itself_when_the_cards_are_shuffled():
    alike = total = 0
    for i, (prompt, texts) in enumerate(annotators.corpus_draws(400, 2, seed=32)):
        person = SimulatedAnnotator(i % 10, "bound")
        first = annotators.comparisons(person.rank(prompt, texts))
        again = annotators.comparisons(person.rank(prompt, texts[::-1]))
        if first and again:
            alike += first[0] == (1 - again[0][0], 1 - again[0][1])
            total += 1
    assert 0.76 < alike / total < 0.97  # more than it agrees with others, less than a machine


def test_it_follows_the_gold_exactly_without_noise_taste_and_bias(draws):
    person = SimulatedAnnotator(3, "bound", noise=0.0)
    person.taste = dict(person.gold.weights)
    person.position_bias = person.length_bias = person.tie_width = 0.0
    for prompt, texts in draws:
        assert person.rank(prompt, texts) == annotators.gold_order(person.gold, prompt, texts)


def test_it_prefers_early_cards_a_little():
    """Two equal cards: the first wins more often than not over many people, yet far from always."""
    text = annotators.corpus_draws(1, 1, seed=33)[0][1][0]
    first = []
    for seed in range(400):
        person = SimulatedAnnotator(seed, "bound", noise=0.0)
        person.tie_width = 0.0
        first.append(person.rank("Tell a story about a shy fox and a kite.", [text, text])[0] == [0])
    assert 0.7 < fmean(first) < 0.97
    assert abs(person.position_bias) < 0.3 * annotators.spread(GOLDS["bound"])


def test_it_is_shuffled_out_of_its_position_bias():
    """Over shuffled cards the place of the best card is close to even."""
    rng = random.Random(5)
    places = [0, 0, 0, 0]
    for i, (prompt, texts) in enumerate(annotators.corpus_draws(1200, 4, seed=34)):
        rng.shuffle(texts)
        for place in SimulatedAnnotator(i % 40, "bound").rank(prompt, texts)[0]:
            places[place] += 1
    assert all(0.18 < count / sum(places) < 0.32 for count in places)


def test_it_takes_a_persons_time(draws):
    seconds = [SimulatedAnnotator(i, "style").seconds_on_task(p, texts) for i, (p, texts) in enumerate(draws)]
    assert all(8 < second < 400 for second in seconds)
    assert max(seconds) > 1.5 * min(seconds)


def test_it_survives_hostile_cards():
    texts = ["", "\ud800", "x" * 1_000_000, "Once a shy fox lived by the mill. " * 1000]
    order = SimulatedAnnotator(1, "bound").rank("Tell a story about a shy fox and a kite.", texts)
    assert sorted(i for group in order for i in group) == [0, 1, 2, 3]
    assert SimulatedAnnotator(1, "bound").seconds_on_task("\ud800", texts) > 0


def test_it_groups_ties():
    # 0.9 | 0.55, 0.5 (0.05 apart) | 0.1
    assert annotators.tie_groups([0.5, 0.9, 0.1, 0.55], 0.06) == [[1], [3, 0], [2]]
    assert annotators.tie_groups([0.5, 0.9, 0.1, 0.55]) == [[1], [3], [0], [2]]
    assert annotators.tie_groups([0.0, 0.0]) == [[0, 1]]


def test_it_makes_no_comparison_from_ties():
    assert annotators.comparisons([[2], [0, 3], [1]]) == [(2, 0), (2, 3), (2, 1), (0, 1), (3, 1)]
    assert annotators.comparisons([[0, 1]]) == []


def test_it_gives_the_gold_order_a_perfect_score_on_its_own_labels(draws):
    gold = GOLDS["bound"]
    own = [
        (prompt, texts[better], texts[worse])
        for prompt, texts in draws
        for better, worse in annotators.comparisons(annotators.gold_order(gold, prompt, texts))
    ]
    assert annotators.ceiling(gold, own) == 1.0
    assert annotators.ceiling(gold, [(p, worse, better) for p, better, worse in own]) == 0.0
    with pytest.raises(ValueError, match="at least one"):
        annotators.ceiling(gold, [])
