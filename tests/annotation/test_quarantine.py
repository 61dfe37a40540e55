"""Suspects' new rankings are kept and not used; judgments of a period are withdrawn, and brought back."""

import json
from datetime import timedelta

import pytest
from django.utils import timezone

from annotation import assignment, demonstrations, projects, quarantine, rankings, reports, withdrawals
from annotation.formats.demonstrations import write_demonstrations
from annotation.formats.selection import JudgmentFilter
from annotation.models import (
    AuditEvent,
    Membership,
    QualityReport,
    Ranking,
    Slot,
    SlotState,
    Suspicion,
    SuspicionState,
)
from tests.annotation.crowds import crowd

pytestmark = pytest.mark.django_db


def rank_next(project, annotator, client_id="1"):
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[key] for key in lease.presented_order]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order)[0]


def member(project, user):
    return Membership.objects.get(project=project, user=user)


def in_use():
    return Ranking.objects.in_use()


def test_it_holds_back_new_rankings_only(project, annotator, second_annotator, make_tasks):
    make_tasks(3)
    before = rank_next(project, annotator, "1")
    quarantine.suspect(member(project, annotator), reasons=[{"check": "alignment"}])
    held, other = rank_next(project, annotator, "2"), rank_next(project, second_annotator)
    assert held.is_held and held.is_counted
    assert set(in_use()) == {before, other}
    # A change of what was in use is new as well.
    order = before.order[::-1]
    changed, _ = rankings.submit_ranking(before.assignment, annotator=annotator, client_id="3", order=order)
    assert changed.is_held


def test_clearing_uses_what_was_held_back(project, annotator, reviewer, make_tasks):
    make_tasks(2)
    suspicion = quarantine.suspect(member(project, annotator))
    assert quarantine.suspect(member(project, annotator)) == suspicion
    held = rank_next(project, annotator)
    assert quarantine.clear(suspicion, actor=reviewer) == 1
    assert quarantine.clear(suspicion, actor=reviewer) is None
    assert list(in_use()) == [held]
    assert not rank_next(project, annotator, "2").is_held
    actions = set(AuditEvent.objects.values_list("action", "actor__username"))
    assert {("member.quarantined", None), ("member.cleared", "reviewer")} <= actions


def test_confirming_withdraws_all_and_asks_others(project, annotator, second_annotator, reviewer, make_tasks):
    make_tasks(2)
    rank_next(project, annotator, "1")
    suspicion = quarantine.suspect(member(project, annotator))
    rank_next(project, annotator, "2")
    withdrawal = quarantine.confirm(suspicion, actor=reviewer, reason="A coin.")
    assert withdrawal.count == 2 and not in_use().exists()
    assert Slot.objects.filter(state=SlotState.OPEN).count() == 2
    # Not asked again themselves, and still held back; others fill the places.
    assert assignment.next_assignment(project, annotator=annotator) is None
    assert rank_next(project, second_annotator).is_counted
    assert member(project, annotator).quarantined_at
    assert quarantine.lift(member(project, annotator), actor=reviewer)
    assert not member(project, annotator).quarantined_at


def test_it_withdraws_a_period_and_nobody_elses(project, annotator, second_annotator, admin, make_tasks):
    make_tasks(3)
    old, new = rank_next(project, annotator, "1"), rank_next(project, annotator, "2")
    others = rank_next(project, second_annotator)
    yesterday = timezone.now() - timedelta(days=1)
    Ranking.objects.filter(pk=old.pk).update(created_at=yesterday)
    today = timezone.now() - timedelta(hours=1)
    withdrawal = withdrawals.withdraw(project, annotator=annotator, actor=admin, since=today, reason="Tired.")
    assert withdrawal.count == 1
    assert set(in_use()) == {old, others}
    assert Ranking.objects.get(pk=new.pk).withdrawal == withdrawal
    assert withdrawals.withdraw(project, annotator=annotator, actor=admin, since=today) is None
    event = AuditEvent.objects.get(action="judgments.withdrawn")
    assert (event.actor, event.detail["count"], event.detail["reason"]) == (admin, 1, "Tired.")


def test_it_brings_back_what_has_its_place_still(project, annotator, second_annotator, admin, make_tasks):
    make_tasks(2)
    first, second = rank_next(project, annotator, "1"), rank_next(project, annotator, "2")
    withdrawal = withdrawals.withdraw(project, annotator=annotator, actor=admin)
    taken = rank_next(project, second_annotator)
    assert withdrawals.reverse(withdrawal, actor=admin) == 1
    assert withdrawals.reverse(withdrawal, actor=admin) is None
    lost, kept = (first, second) if taken.task == first.task else (second, first)
    assert set(in_use()) == {taken, kept}
    # No task has more than one counted judgment, and nothing is gone.
    lost.refresh_from_db()
    assert (lost.is_counted, lost.withdrawn_at, lost.order) == (False, None, lost.order)
    assert Slot.objects.filter(state=SlotState.DONE).count() == 2


def store(project, make_tasks, make_member, judgments):
    """Rankings like these Judgments, as the tables would hold them."""
    tasks = make_tasks(1 + max(row.task for row in judgments), overlap=4)
    people = {number: make_member(f"person{number}", "annotator") for number in {row.annotator for row in judgments}}
    ids = {task.pk: [str(entry.completion_id) for entry in task.entries.all()] for task in tasks}
    rows = []
    for number, row in enumerate(judgments):
        task = tasks[row.task]
        key = dict(zip(sorted(row.places), ids[task.pk], strict=True))
        order = [[key[answer]] for answer in sorted(row.places, key=row.places.get)]
        rows.append(
            Ranking(
                task=task,
                annotator=people[row.annotator],
                client_id=str(number),
                body_sha256="",
                order=order,
                presented_order=[key[answer] for answer in row.presented],
                seconds=10,
                prompt_set_version=1,
            )
        )
    Ranking.objects.bulk_create(rows)
    return people


@pytest.fixture
def judged(project, make_tasks, make_member):
    """Eight people of whom the last is a coin, 30 rankings each: {number: user}."""
    return store(project, make_tasks, make_member, crowd(honest=7, hostile=1, tasks=80))


def test_the_report_finds_the_coin_and_holds_it_back(project, judged, django_assert_max_num_queries):
    reports.refresh_due()
    report = QualityReport.objects.get(project=project, simulated=False)
    (found,) = Suspicion.objects.all()
    assert found.membership.user == judged[7]
    assert [reason["check"] for reason in found.reasons] == ["alignment"]
    assert report.figures["agreement"]["pairs"] == 80 * 3 * 6
    assert report.figures["weights"][str(judged[7].pk)] < 0.6 < report.figures["weights"][str(judged[0].pk)]
    figures = report.figures["annotators"][str(judged[0].pk)]
    assert figures["rankings"] > 20 and figures["pace"] == 10 and figures["agreement"][0] > 0.6
    # Nothing has come in: the next passes ask what changed, and compute nothing.
    reports.refresh_due()
    assert QualityReport.objects.get().computed_at == report.computed_at


def test_a_cleared_person_is_not_suspected_for_the_same_judgments(project, judged, reviewer):
    reports.refresh(project)
    quarantine.clear(Suspicion.objects.get(), actor=reviewer)
    assert reports.refresh(project).figures["suspects"] == {}
    assert not Suspicion.objects.filter(state=SuspicionState.OPEN).exists()


def test_a_report_is_made_anew_when_judgments_change_and_not_too_often(project, judged, admin):
    reports.refresh(project)
    assert not reports.is_due(project, simulated=False)
    withdrawals.withdraw(project, annotator=judged[0], actor=admin)
    assert not reports.is_due(project, simulated=False)  # only a moment old
    QualityReport.objects.update(computed_at=timezone.now() - timedelta(minutes=5))
    assert reports.is_due(project, simulated=False)
    assert not reports.is_due(project, simulated=True)


def test_a_project_that_does_not_weigh_has_no_weights(project, judged, admin):
    assert len(reports.training_weights(project)) == 8
    project = projects.change_project(project, actor=admin, weigh_annotators=False)
    assert reports.training_weights(project) == {}


@pytest.fixture
def written(project, annotator, prompt):
    """written("text") -> a new Demonstration by the annotator."""

    def write(text):
        message = {"role": "assistant", "content": text}
        return demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=message)

    return write


def trained_on(project):
    lines = map(json.loads, write_demonstrations(project, JudgmentFilter()))
    return {line["messages"][-1]["content"] for line in lines}


def test_it_withdraws_what_was_written_too_and_brings_it_back(project, annotator, reviewer, written):
    written("Spam.")
    # Nothing was ranked: what was written alone is reason enough.
    withdrawal = quarantine.confirm(quarantine.suspect(member(project, annotator)), actor=reviewer)
    assert trained_on(project) == set()
    assert withdrawals.reverse(withdrawal, actor=reviewer) == 0
    assert trained_on(project) == {"Spam."}


def test_it_holds_back_what_is_written_under_quarantine(project, annotator, reviewer, written):
    written("Before.")
    suspicion = quarantine.suspect(member(project, annotator))
    written("Meanwhile.")
    assert trained_on(project) == {"Before."}
    quarantine.clear(suspicion, actor=reviewer)
    assert trained_on(project) == {"Before.", "Meanwhile."}


def test_what_was_written_between_confirming_and_lifting_stays_out(project, annotator, reviewer, written):
    quarantine.confirm(quarantine.suspect(member(project, annotator)), actor=reviewer)
    written("More spam.")
    assert quarantine.lift(member(project, annotator), actor=reviewer)
    written("Sorry.")
    assert trained_on(project) == {"Sorry."}
