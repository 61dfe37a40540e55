"""Bradley-Terry with annotator reliability: known reliabilities are found again."""

import random

import pytest

from annotation import reliability
from annotation.agreement import Judgment, places_of
from annotation.suspicion import GOLD
from tests.annotation.crowds import agreed_order, crowd, judge


def test_it_finds_the_reliabilities_that_made_the_comparisons():
    """Drawn from the model itself: pairs of known scores, followed with the chance eta and turned round otherwise."""
    rng = random.Random(0)
    truth = [0.95] * 6 + [0.75, 0.5, 0.1]
    judgments = []
    for task in range(900):
        gap = rng.gauss(0, 2)
        for person in rng.sample(range(len(truth)), 4):
            chance = 1 / (1 + 2.718281828**-gap)
            first_wins = (rng.random() < chance) == (rng.random() < truth[person])
            order = ["a", "b"] if first_wins else ["b", "a"]
            judgments.append(Judgment(task=task, annotator=person, places=places_of(order)))
    found = reliability.fit_reliabilities(judgments)
    # Scores from three other opinions are blurred, which draws all reliabilities alike somewhat towards the coin's …
    for person, eta in enumerate(truth):
        assert found[person][0] == pytest.approx(eta, abs=0.25)
    # … so that the weights, which are relative to the median (0.95), are not: (2 * 0.75 - 1) / (2 * 0.95 - 1) = 0.56.
    weights = reliability.weights(found)
    assert sum(weights[person] for person in range(6)) / 6 > 0.9
    assert weights[6] == pytest.approx(0.56, abs=0.25)
    assert (weights[7], weights[8]) == (pytest.approx(0, abs=0.15), 0)


def test_it_weighs_the_usual_one_a_coin_near_zero_and_a_reverser_zero():
    rows = crowd(honest=12, hostile=0, tasks=300)
    rng = random.Random(1)
    changed = []
    for row in rows:
        places = row.places
        if row.annotator == 0:
            places = judge(rng, dict.fromkeys(places, 0), 1)
        elif row.annotator == 1:
            places = {answer: -place for answer, place in places.items()}
        changed.append(Judgment(task=row.task, annotator=row.annotator, places=places))
    weights = reliability.weights(reliability.fit_reliabilities(changed))
    assert weights[0] < 0.35
    assert weights[1] == 0
    assert all(weight > 0.6 for person, weight in weights.items() if person > 1)


def test_a_ring_does_not_prop_itself_up_once_it_is_distrusted():
    judgments = crowd(honest=12, hostile=5, tasks=200, order=agreed_order)
    ring = set(range(12, 17))
    alone = reliability.weights(reliability.fit_reliabilities(judgments))
    watched = reliability.weights(reliability.fit_reliabilities(judgments, distrusted=ring))
    assert max(watched[person] for person in ring) < 0.5
    assert sum(watched[person] for person in ring) < sum(alone[person] for person in ring)


def test_a_known_answer_judges_somebody_whom_nobody_else_meets():
    rng = random.Random(2)
    judgments = []
    for task in range(40):
        values = {answer: rng.gauss(0, 1) for answer in "abcd"}
        for person, noise in (("good", 0.4), ("coin", 100)):
            name = (task, person)
            judgments.append(Judgment(task=name, annotator=person, places=judge(rng, values, noise)))
            judgments.append(Judgment(task=name, annotator=GOLD, places=judge(rng, values, 0)))
    found = reliability.fit_reliabilities(judgments)
    assert GOLD not in found
    assert found["good"][0] > 0.8 > 0.65 > found["coin"][0]


def test_it_leaves_the_weight_of_those_alone_of_whom_little_is_known():
    few = [row for row in crowd(tasks=300) if row.annotator != 3 or row.task < 20]
    weights = reliability.weights(reliability.fit_reliabilities(few))
    assert 3 not in weights
    assert reliability.fit_reliabilities(crowd(overlap=1)) == {}
    assert reliability.weights({}) == {}
