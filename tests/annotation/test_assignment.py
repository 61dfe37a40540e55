import json
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from annotation import assignment, rankings
from annotation.models import Assignment, Slot, Task

pytestmark = pytest.mark.django_db


def submit(lease, annotator, client_id="c1", **fields):
    order = [[completion_id] for completion_id in lease.presented_order]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order, **fields)


def overdue(lease):
    return lease.lease_expires_at + timedelta(seconds=1)


def test_it_gives_the_lease_that_is_already_held(project, annotator, make_tasks):
    make_tasks(3)
    first = assignment.next_assignment(project, annotator=annotator)
    again = assignment.next_assignment(project, annotator=annotator)
    assert again.pk == first.pk
    assert again.presented_order == first.presented_order
    assert Slot.objects.filter(state="leased").count() == 1


def test_it_gives_one_more_ahead_and_never_a_third(project, annotator, make_tasks):
    make_tasks(4)
    first = assignment.next_assignment(project, annotator=annotator)
    second = assignment.next_assignment(project, annotator=annotator, ahead=True)
    assert second.pk != first.pk
    assert assignment.next_assignment(project, annotator=annotator, ahead=True).pk == second.pk
    assert assignment.next_assignment(project, annotator=annotator).pk == first.pk
    submit(first, annotator)
    assert assignment.next_assignment(project, annotator=annotator).pk == second.pk


def test_it_gives_two_annotators_different_slots(project, annotator, second_annotator, task):
    assert assignment.next_assignment(project, annotator=annotator).task == task
    assert assignment.next_assignment(project, annotator=second_annotator) is None


def test_it_asks_overlap_many_people(project, annotator, second_annotator, reviewer, make_task, prompt):
    task = make_task(prompt, overlap=2)
    assert assignment.next_assignment(project, annotator=annotator).task == task
    assert assignment.next_assignment(project, annotator=second_annotator).task == task
    assert assignment.next_assignment(project, annotator=reviewer) is None


def test_it_asks_nobody_twice(project, annotator, make_task, prompt):
    make_task(prompt, overlap=2)
    submit(assignment.next_assignment(project, annotator=annotator), annotator)
    assert assignment.next_assignment(project, annotator=annotator) is None


def test_it_takes_higher_priority_first(project, annotator, make_task, prompt):
    make_task(prompt, priority=1)
    urgent = make_task(prompt, priority=5)
    assert assignment.next_assignment(project, annotator=annotator).task == urgent


def test_it_reopens_the_slot_of_an_expired_lease(project, annotator, second_annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assert assignment.expire_leases(now=lease.lease_expires_at - timedelta(seconds=1)) == 0
    assert assignment.expire_leases(now=overdue(lease)) == 1
    assert assignment.expire_leases(now=overdue(lease)) == 0
    assert assignment.next_assignment(project, annotator=second_annotator).task == task


def test_it_keeps_a_late_submission_as_surplus(project, annotator, second_annotator, task):
    late = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=overdue(late))
    counted, _ = submit(assignment.next_assignment(project, annotator=second_annotator), second_annotator)
    surplus, created = submit(late, annotator)
    assert created
    assert (counted.is_counted, surplus.is_counted) == (True, False)
    assert Assignment.objects.get(pk=late.pk).state == "surplus"
    assert task.slots.get().state == "done"
    assert assignment.next_assignment(project, annotator=annotator) is None


def test_it_counts_a_submission_after_the_time_when_nobody_took_the_lease_away(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    Assignment.objects.filter(pk=lease.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=5))
    ranking, _ = submit(lease, annotator)
    assert ranking.is_counted


def test_it_offers_an_expired_task_to_the_same_person_again(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=overdue(lease))
    again = assignment.next_assignment(project, annotator=annotator)
    assert again.pk == lease.pk
    assert again.presented_order == lease.presented_order
    ranking, _ = submit(again, annotator)
    assert ranking.is_counted


def test_it_does_not_ask_who_skipped(project, annotator, second_annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.skip(lease, annotator=annotator, reason="not my language")
    assignment.skip(lease, annotator=annotator)
    assert assignment.next_assignment(project, annotator=annotator) is None
    assert assignment.next_assignment(project, annotator=second_annotator).task == task


def test_it_refuses_to_skip_what_was_submitted(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    submit(lease, annotator)
    with pytest.raises(assignment.Conflict):
        assignment.skip(lease, annotator=annotator)


def test_it_releases_a_lease_for_anybody(project, annotator, second_annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.release(lease, annotator=annotator)
    assert assignment.next_assignment(project, annotator=second_annotator).task == task


def test_it_gives_what_one_left_back_first_while_it_is_free(project, annotator, second_annotator, make_tasks):
    make_tasks(30)
    first = assignment.next_assignment(project, annotator=annotator)
    ahead = assignment.next_assignment(project, annotator=annotator, ahead=True)
    for lease in (ahead, first):
        assignment.release(lease, annotator=annotator)
    assert assignment.next_assignment(project, annotator=annotator).pk == first.pk
    assert assignment.next_assignment(project, annotator=annotator, ahead=True).pk == ahead.pk
    assignment.release(first, annotator=annotator)
    Slot.objects.filter(pk=first.slot_id).update(priority=1)  # so that somebody else gets it
    assert assignment.next_assignment(project, annotator=second_annotator).task == first.task
    submit(ahead, annotator)
    assert assignment.next_assignment(project, annotator=annotator).pk not in (first.pk, ahead.pk)


def test_a_lease_that_was_renewed_since_is_not_released(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    as_known = lease.lease_expires_at
    assignment.next_assignment(project, annotator=annotator)  # the same page, loaded again
    assert assignment.release(lease, annotator=annotator, lease_expires_at=as_known).state == "leased"
    now_known = Assignment.objects.get(pk=lease.pk).lease_expires_at
    assert assignment.release(lease, annotator=annotator, lease_expires_at=now_known).state == "expired"


def test_it_does_not_reopen_a_closed_task_for_who_left_it(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.release(lease, annotator=annotator)
    assignment.close_task(task)
    assert assignment.next_assignment(project, annotator=annotator) is None


def test_it_hides_other_peoples_assignments(project, annotator, second_annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    for call in (assignment.heartbeat, assignment.skip, assignment.release):
        with pytest.raises(assignment.NotYours):
            call(lease, annotator=second_annotator)
    with pytest.raises(assignment.NotYours):
        submit(lease, second_annotator)


def test_it_lengthens_a_lease_by_a_heartbeat(project, annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    Assignment.objects.filter(pk=lease.pk).update(lease_expires_at=timezone.now() + timedelta(seconds=3))
    renewed = assignment.heartbeat(lease, annotator=annotator)
    assert renewed.lease_expires_at > timezone.now() + timedelta(seconds=project.lease_seconds - 60)


def test_it_takes_an_expired_lease_up_again_only_while_the_slot_is_open(project, annotator, second_annotator, task):
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=overdue(lease))
    assert assignment.heartbeat(lease, annotator=annotator).state == "leased"
    assignment.expire_leases(now=overdue(lease) + timedelta(minutes=5))
    assignment.next_assignment(project, annotator=second_annotator)
    assert assignment.heartbeat(lease, annotator=annotator).state == "expired"
    assert Assignment.objects.filter(slot__task=task, state="leased").count() == 1


def test_it_shows_identical_answers_once(project, annotator, make_task, prompt):
    task = make_task(prompt, "Same.", "Other.", "Same.")
    lease = assignment.next_assignment(project, annotator=annotator)
    assert len(lease.presented_order) == 2
    assert [entry.card for entry in task.entries.order_by("position")] == [0, 1, 0]


def test_it_makes_no_task_of_answers_that_are_all_alike(project, make_task, prompt):
    assert make_task(prompt, "Same.", "Same.", "Same.") is None
    assert not Task.objects.exists()
    assert assignment.queue_figures(project)["identical"] == 1


def test_it_shuffles_the_order_shown_and_stores_it(project, annotator, make_tasks):
    shown_unshuffled = 0
    for number, _task in enumerate(make_tasks(24)):
        lease = assignment.next_assignment(project, annotator=annotator)
        by_position = [
            str(pk) for pk in lease.task.entries.order_by("position").values_list("completion_id", flat=True)
        ]
        assert sorted(by_position) == sorted(lease.presented_order)
        shown_unshuffled += by_position == lease.presented_order
        submit(lease, annotator, client_id=str(number))
    # 24 tasks of 4 cards: the chance that all but 11 keep their order is below 1e-9.
    assert shown_unshuffled < 12


def test_it_closes_a_task_for_good(project, annotator, make_task, prompt):
    task = make_task(prompt, overlap=2)
    lease = assignment.next_assignment(project, annotator=annotator)
    assert assignment.close_task(task)
    assert not assignment.close_task(task)
    assignment.expire_leases(now=overdue(lease))
    assert set(task.slots.values_list("state", flat=True)) == {"closed"}


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"overlap": 0}, "overlap"),
        ({"overlap": True}, "overlap"),
        ({"purpose": "fun"}, "purpose"),
        ({"propensity": 0}, "propensity"),
        ({"propensity": float("nan")}, "propensity"),
    ],
)
def test_it_refuses_a_task_that_makes_no_sense(make_task, prompt, fields, field):
    with pytest.raises(assignment.TaskError) as caught:
        make_task(prompt, **fields)
    assert caught.value.field == field


@pytest.mark.parametrize("count", [1, 10])
def test_it_takes_from_two_to_nine_answers(make_task, prompt, count):
    with pytest.raises(assignment.TaskError, match="from 2 to 9"):
        make_task(prompt, *(f"Answer {number}." for number in range(count)))


def test_it_refuses_answers_to_another_prompt(project, make_prompts, make_completions):
    one, other = make_prompts("one", "other")
    mixed = make_completions(one, "A.") + make_completions(other, "B.")
    with pytest.raises(assignment.TaskError, match="another prompt"):
        assignment.queue_task(project, prompt=one, completions=mixed)


def test_it_claims_by_the_queue_index_without_sorting(project, annotator, task):
    queue = assignment.open_slots(project, annotator)[: assignment.CANDIDATES]
    if connection.vendor == "sqlite":
        plan = queue.explain()
        assert "USING INDEX slot_queue" in plan
        assert "TEMP B-TREE" not in plan
        assert "assignment_once_a_person" in plan


def test_it_claims_with_few_queries(project, annotator, task, django_assert_max_num_queries):
    with django_assert_max_num_queries(12):
        lease = assignment.next_assignment(project, annotator=annotator)
    with django_assert_max_num_queries(12):
        submit(lease, annotator)


def test_it_stores_ids_that_are_json(project, annotator, task):
    assert json.loads(json.dumps(assignment.next_assignment(project, annotator=annotator).presented_order))
