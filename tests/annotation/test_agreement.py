"""Agreement figures against SciPy, worked numbers and known coverage."""

import random

import pytest
from scipy import stats

from annotation import agreement
from annotation.agreement import Judgment, places_of


def judgment(task, annotator, order, **fields):
    return Judgment(task=task, annotator=annotator, places=places_of(order), **fields)


def test_its_tau_is_scipys_for_any_ties():
    rng = random.Random(1)
    compared = 0
    for _trial in range(500):
        size = rng.randint(2, 9)
        one, other = ({answer: rng.randint(0, 3) for answer in range(size)} for _ in range(2))
        expected = stats.kendalltau(list(one.values()), list(other.values())).statistic
        found = agreement.tau_b(one, other)
        if found is None:
            assert expected != expected  # SciPy says NaN where one is all ties
        else:
            assert found == pytest.approx(expected)
            compared += 1
    assert compared > 300


def test_it_compares_only_what_both_put_in_order():
    # a > b > c and a > c > b: alike (a, b), (a, c); opposite (b, c). The answer d has no place in the other.
    one, other = places_of(["a", "b", "c", "d"]), places_of(["a", "c", "b"])
    assert agreement.compare(one, other) == (2, 1, 0, 0)
    assert agreement.tau_b(one, other) == pytest.approx(1 / 3)


def test_it_counts_two_people_and_not_one_twice():
    rows = [judgment(1, "ann", ["a", "b"]), judgment(1, "ann", ["b", "a"]), judgment(1, "bob", ["a", "b"])]
    found = agreement.pairwise_agreement(rows)
    assert (found["agreement"], found["pairs"], found["tau"]) == (0.5, 2, 0)


def test_it_says_nothing_without_a_second_opinion():
    found = agreement.pairwise_agreement([judgment(1, "ann", ["a", "b"]), judgment(2, "bob", ["a", "b"])])
    assert set(found.values()) == {None, 0}


def test_its_interval_of_a_share_holds_the_truth_about_95_times_in_100():
    rng = random.Random(0)
    truth, held, trials = 0.7, 0, 600
    for _ in range(trials):
        # 60 prompts of 4 pairs each, all pairs of a prompt leaning the same way: the number of prompts counts.
        clusters = []
        for _prompt in range(60):
            leaning = rng.betavariate(truth * 2, (1 - truth) * 2)
            clusters.append((sum(rng.random() < leaning for _pair in range(4)), 4))
        _share, low, high = agreement.clustered_share(clusters)
        held += low <= truth <= high
    # Binomial with 600 trials of 0.95: a standard deviation of 0.9 percent.
    assert 0.92 <= held / trials <= 0.98


def test_its_interval_is_wilsons_for_independent_trials():
    share, low, high = agreement.clustered_share([(1, 1)] * 10 + [(0, 1)] * 0)
    assert share == 1
    # Wilson, 10 of 10: lower bound n / (n + z²) = 10 / 13.8415 = 0.7225.
    assert (round(low, 4), round(high, 4)) == (0.7225, 1.0)


def test_its_interval_of_tau_holds_the_truth_about_95_times_in_100():
    rng = random.Random(2)
    held, trials = 0, 500
    for _trial in range(trials):
        # Two values a task around a mean of the task's own, which is what clusters are about; the truth is 0.2.
        clusters = []
        for _task in range(50):
            middle = rng.uniform(-0.2, 0.6)
            clusters.append([middle + rng.uniform(-0.4, 0.4) for _ in range(2)])
        _mean, low, high = agreement.clustered_mean(clusters)
        held += low <= 0.2 <= high
    # Binomial with 500 trials of 0.95: a standard deviation of 1 percent.
    assert 0.92 <= held / trials <= 0.98


def test_it_knows_nothing_of_the_spread_from_one_task():
    assert agreement.clustered_mean([[0.5]]) == (0.5, -1, 1)
    assert agreement.clustered_mean([[], []]) == (None, None, None)


def test_it_finds_habits_of_position_and_length():
    first_is_best = judgment(1, "ann", ["a", "b", "c"], presented=("a", "b", "c"), lengths={"a": 9, "b": 5, "c": 1})
    assert agreement.position_taus([first_is_best]) == {"ann": [1.0]}
    assert agreement.length_taus([first_is_best]) == {"ann": [1.0]}
    last_is_best = judgment(1, "bob", ["c", "b", "a"], presented=("a", "b", "c"), lengths={"a": 9, "b": 5, "c": 1})
    assert agreement.position_taus([last_is_best]) == {"bob": [-1.0]}
    assert agreement.length_taus([last_is_best]) == {"bob": [-1.0]}


def test_it_sees_a_drift_and_says_how_sure_it_is():
    change, low, high = agreement.drift([(6, 6), (5, 6)] * 10 + [(3, 6), (2, 6)] * 10)
    # Early 11/12, late 5/12.
    assert change == pytest.approx(-0.5)
    assert low < -0.5 < high < 0
    assert agreement.drift([(6, 6)] * 8) is None


def test_it_keeps_ones_tasks_in_the_order_in_which_one_judged_them():
    # Ann goes 1, 2, 3; the others come to the same tasks the other way round, one of them before her.
    def rows(name, times, orders):
        return [judgment(task, name, order, at=at) for task, at, order in zip((1, 2, 3), times, orders, strict=True)]

    alike, partly, opposite = ["a", "b", "c"], ["a", "c", "b"], ["c", "b", "a"]
    judged = rows("ann", (10, 20, 30), (alike, partly, opposite)) + rows("bob", (29, 19, 9), [alike] * 3)
    judged.sort(key=lambda row: row.at)
    assert agreement.shares_with_others(judged)["ann"] == [[3, 3], [2, 3], [0, 3]]
    assert agreement.shares_with_others(judged)["bob"] == [[0, 3], [2, 3], [3, 3]]
