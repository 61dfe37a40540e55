"""Who is suspected: hostile people nearly always, careful ones nearly never."""

import random
from dataclasses import replace

import pytest
from scipy import optimize

from annotation import suspicion
from annotation.agreement import Judgment, places_of
from tests.annotation.crowds import agreed_order, crowd, judge


def checks(judgments, **fields):
    """{annotator: set of checks}"""
    found = suspicion.find_suspects(judgments, **fields)
    return {person: {reading.check for reading in readings} for person, readings in found.items()}


def reversed_order(rng, values):
    return judge(rng, values, 0.8, sign=-1)


@pytest.mark.parametrize("order", [None, reversed_order, agreed_order])
def test_it_suspects_the_hostile_and_nobody_else(order):
    caught = false = 0
    for seed in range(6):
        # 20 people, 4 of them hostile, 45 rankings each.
        found = checks(crowd(seed=seed, order=order, tasks=300))
        caught += len(found.keys() & {16, 17, 18, 19})
        false += len(found.keys() - {16, 17, 18, 19})
    assert caught >= 0.8 * 24
    assert false <= 0.05 * 96


def test_it_rarely_suspects_anybody_in_an_honest_crowd():
    false = sum(len(checks(crowd(seed=seed, honest=20, hostile=0))) for seed in range(15))
    assert false <= 0.05 * 300


def test_it_suspects_nobody_on_little_evidence():
    # 20 people, 2 or 3 rankings each.
    assert checks(crowd(tasks=15)) == {}
    assert suspicion.find_suspects([]) == {}


def test_two_people_alone_cannot_tell_who_is_wrong():
    assert checks(crowd(honest=1, hostile=1, overlap=2, tasks=100)) == {}


def test_known_answers_tell_even_one_person_from_a_coin():
    judgments = crowd(honest=1, hostile=1, overlap=2, tasks=60)
    # What the honest person said is as good as a known answer for this test.
    gold = [
        Judgment(task=row.task, annotator=suspicion.GOLD, places=row.places) for row in judgments if not row.annotator
    ]
    assert checks(judgments + gold) == {1: {"alignment"}}


def test_it_suspects_who_always_takes_the_first_card():
    judgments = [
        row
        if row.annotator != 16
        else Judgment(
            task=row.task,
            annotator=16,
            places=places_of([answer] for answer in row.presented),
            presented=row.presented,
        )
        for row in crowd(honest=17, hostile=0, tasks=200)
    ]
    assert "position" in checks(judgments)[16]


def test_it_suspects_who_goes_by_length_and_not_by_what_the_crowd_likes():
    rng = random.Random(3)
    judgments = []
    for row in crowd(honest=10, hostile=0, tasks=150):
        lengths = {answer: rng.randint(50, 500) for answer in row.places}
        longest_first = places_of([answer] for answer in sorted(lengths, key=lambda answer: -lengths[answer]))
        places = longest_first if row.annotator == 0 else row.places
        judgments.append(Judgment(task=row.task, annotator=row.annotator, places=places, lengths=lengths))
    assert "length" in checks(judgments)[0]
    # Where everybody prefers short answers, that is the guideline and no habit.
    everybody = [
        Judgment(
            task=row.task,
            annotator=row.annotator,
            places=places_of([answer] for answer in sorted(row.lengths, key=row.lengths.get)),
            lengths=row.lengths,
        )
        for row in judgments
    ]
    assert all("length" not in found for found in checks(everybody).values())


def test_it_suspects_who_takes_no_time():
    judgments = [
        replace(row, seconds=3 if row.annotator == 2 else 30 + row.task)
        for row in crowd(honest=8, hostile=0, tasks=120)
    ]
    assert {person for person, found in checks(judgments).items() if "pace" in found} == {2}


def test_it_suspects_who_contradicts_himself():
    rng = random.Random(4)
    repeats = []
    for person in range(8):
        for task in range(20):
            values = {answer: rng.gauss(0, 1) for answer in range(4)}
            one, again = (judge(rng, values, 0.4 if person else 50) for _ in range(2))
            repeats.append(
                tuple(Judgment(task=(person, task), annotator=person, places=places) for places in (one, again))
            )
    assert checks([], repeats=repeats) == {0: {"consistency"}}


def test_it_notices_two_who_are_one():
    """Someone who copies a careful person agrees with everybody, and is still no second opinion."""
    judgments = crowd(honest=6, hostile=0, tasks=120, overlap=3)
    by_first = {row.task: row.places for row in judgments if row.annotator == 0}
    copied = [
        Judgment(task=row.task, annotator=1, places=by_first[row.task])
        if row.annotator == 1 and row.task in by_first
        else row
        for row in judgments
    ]
    assert checks(copied) == {0: {"copying"}, 1: {"copying"}}


def test_it_solves_what_a_general_solver_solves():
    """Three people of whom each couple meets: r_ann r_bob = 0.2 and so on has one solution, found by SciPy too."""
    orders = {"ann": "+++++-----", "bob": "+++++-++--", "cy": "++++++---+"}
    judgments = [
        Judgment(task=task, annotator=name, places=places_of(["a", "b"] if sign == "+" else ["b", "a"]))
        for name, signs in orders.items()
        for task, sign in enumerate(signs)
    ]
    # Accords: ann-bob (8 - 2) / 10 = 0.6, ann-cy (8 - 2) / 10 = 0.6, bob-cy (6 - 4) / 10 = 0.2.
    solved = optimize.fsolve(lambda r: [r[0] * r[1] - 0.6, r[0] * r[2] - 0.6, r[1] * r[2] - 0.2], [0.9, 0.5, 0.5])
    assert solved == pytest.approx([1.342, 0.447, 0.447], abs=0.001)
    found = suspicion.alignments(suspicion.Meetings.of(judgments))
    # Nobody aligns more than perfectly as a witness, so that the others' accord with ann is theirs with the truth.
    assert found["bob"].value == pytest.approx((0.6 + 0.2 * found["cy"].value) / (1 + found["cy"].value ** 2), abs=1e-3)
    assert found["ann"].value > 1


def test_it_reads_the_alignment_off_known_answers():
    gold = [Judgment(task=task, annotator=suspicion.GOLD, places=places_of(["a", "b"])) for task in range(10)]
    said = [
        Judgment(task=task, annotator="ann", places=places_of(["a", "b"] if task < 8 else ["b", "a"]))
        for task in range(10)
    ]
    found = suspicion.alignments(suspicion.Meetings.of(gold + said))
    # 8 of 10 pairs right: (8 - 2) / 10. Tasks deviate by 0.4 eight times and by 1.6 twice: (1.28 + 5.12) / 9.
    assert found["ann"].value == pytest.approx(0.6)
    assert found["ann"].error == pytest.approx((6.4 / 9 / 10) ** 0.5)
    assert found["ann"].tasks == 10
