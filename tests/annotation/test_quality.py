from datetime import timedelta
from statistics import median

import pytest

from annotation import assignment, own_work, quality, rankings
from annotation.models import Membership, Ranking
from tests.annotation.conftest import policy

pytestmark = pytest.mark.django_db

NEW, OLD = policy("n"), policy("e")
DIGESTS = {"new_digest": NEW["digest"], "old_digest": OLD["digest"]}


def judge(project, annotator, order_of, client_id):
    """order_of: {text of an answer: place}; the same place is a tie."""
    lease = assignment.next_assignment(project, annotator=annotator)
    groups = {}
    for entry in lease.task.entries.all():
        groups.setdefault(order_of[entry.completion.message["content"]], []).append(str(entry.completion_id))
    order = [groups[place] for place in sorted(groups)]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order, seconds=10)[0]


def test_it_measures_agreement_of_two_people(project, annotator, second_annotator, make_task, prompt):
    make_task(prompt, "a", "b", "c", overlap=2)
    judge(project, annotator, {"a": 1, "b": 2, "c": 3}, "1")
    judge(project, second_annotator, {"a": 1, "b": 3, "c": 2}, "1")
    # (a, b) and (a, c) agree, (b, c) does not.
    figures = quality.pairwise_agreement(project)
    assert figures["pairs"] == 3
    assert figures["agreement"] == pytest.approx(2 / 3)
    assert 0 <= figures["low"] < figures["agreement"] < figures["high"] <= 1


def test_it_leaves_ties_out_of_agreement(project, annotator, second_annotator, make_task, prompt):
    make_task(prompt, "a", "b", "c", overlap=2)
    judge(project, annotator, {"a": 1, "b": 1, "c": 2}, "1")
    judge(project, second_annotator, {"a": 2, "b": 1, "c": 3}, "1")
    assert quality.pairwise_agreement(project)["pairs"] == 2


def test_it_says_nothing_where_nothing_was_judged(project):
    assert quality.pairwise_agreement(project)["agreement"] is None
    assert quality.pairwise_agreement(project)["pairs"] == 0
    assert quality.win_rate(project, **DIGESTS) == {"win_rate": None, "low": None, "high": None, "pairs": 0}


@pytest.fixture
def blind_task(project, make_prompts, make_completions):
    def make(number):
        prompt = make_prompts(f"Blind {number}.", name=f"set {number}")[0]
        new = make_completions(prompt, "n1", "n2", generator=NEW)
        old = make_completions(prompt, "o1", "o2", generator=OLD)
        return assignment.queue_task(project, prompt=prompt, completions=new + old, purpose="eval")

    return make


def test_it_measures_the_blind_win_rate(project, annotator, blind_task):
    blind_task(1)
    judge(project, annotator, {"n1": 1, "o1": 2, "n2": 2, "o2": 3}, "1")
    # n1 beats both (2), n2 ties o1 (½) and beats o2 (1): 3.5 of 4.
    figures = quality.win_rate(project, **DIGESTS)
    assert (figures["win_rate"], figures["pairs"]) == (3.5 / 4, 4)
    swapped = quality.win_rate(project, new_digest=OLD["digest"], old_digest=NEW["digest"])
    assert swapped["win_rate"] == pytest.approx(1 - 3.5 / 4)


def test_it_never_mixes_people_with_simulated(project, annotator, second_annotator, blind_task):
    Membership.objects.filter(user=annotator).update(simulated=True)
    blind_task(1)
    judge(project, annotator, {"n1": 1, "n2": 2, "o1": 3, "o2": 4}, "1")
    blind_task(2)
    judge(project, second_annotator, {"o1": 1, "o2": 2, "n1": 3, "n2": 4}, "1")
    assert quality.win_rate(project, **DIGESTS)["win_rate"] == 0
    assert quality.win_rate(project, **DIGESTS, simulated=True)["win_rate"] == 1


def test_it_counts_each_annotators_work(project, annotator, second_annotator, make_tasks):
    make_tasks(3)
    order = {"Once A.": 1, "Once B.": 2, "Once C.": 3, "Once D.": 4}
    judge(project, annotator, order, "1")
    judge(project, annotator, order, "2")
    assignment.skip(assignment.next_assignment(project, annotator=second_annotator), annotator=second_annotator)
    rows = {row["membership"].user: row for row in quality.annotator_progress(project)}
    assert (rows[annotator]["total"], rows[annotator]["today"], rows[annotator]["median_seconds"]) == (2, 2, 10)
    assert (rows[second_annotator]["total"], rows[second_annotator]["skipped"]) == (0, 1)
    assert quality.today(project, annotator=annotator) == {"done": 2, "goal": 60, "median_seconds": 10}


def test_a_changed_ranking_is_no_work_of_today(project, annotator, make_tasks):
    make_tasks(1)
    order = {"Once A.": 1, "Once B.": 2, "Once C.": 3, "Once D.": 4}
    first = judge(project, annotator, order, "1")
    Ranking.objects.update(created_at=quality.start_of_day() - timedelta(days=3))
    edit = {"client_id": "2", "order": first.order, "rationale": "Still.", "seconds": 5}
    rankings.submit_ranking(first.assignment, annotator=annotator, **edit)
    (row,) = quality.annotator_progress(project)
    assert (row["total"], row["today"]) == (1, 0)
    assert quality.today(project, annotator=annotator)["done"] == 0
    counts = {period["name"]: period["count"] for period in own_work.figures(project, annotator)["periods"]}
    assert counts == {"today": 0, "week": 1, "all": 1}


@pytest.mark.parametrize("seconds", [[7], [3, 9], [30, 1, 2], [4, 4, 8, 100], [5, 1, 9, 2, 2]])
def test_it_finds_the_middle_time_in_the_database(project, annotator, second_annotator, make_tasks, seconds):
    make_tasks(len(seconds), overlap=2)
    for person, times in ((annotator, seconds), (second_annotator, [None, *seconds[1:]])):
        for number, value in enumerate(times):
            lease = assignment.next_assignment(project, annotator=person)
            order = [[key] for key in lease.presented_order]
            fields = {"client_id": str(number), "order": order, "seconds": value}
            rankings.submit_ranking(lease, annotator=person, **fields)
    medians = {row["membership"].user: row["median_seconds"] for row in quality.annotator_progress(project)}
    assert medians[annotator] == median(seconds)
    assert medians[second_annotator] == (median(seconds[1:]) if seconds[1:] else None)
