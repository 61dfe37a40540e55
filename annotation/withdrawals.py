"""What a person ranked and wrote in a period taken out of use, and brought back: every write to the table.

Nothing is deleted. The slots of withdrawn judgments are open again, so that others are asked in their place; what is
brought back after somebody took its place is kept as surplus.
"""

from django.db import transaction
from django.utils import timezone

from annotation import hidden
from annotation.audit import record_event
from annotation.models import (
    Assignment,
    AssignmentState,
    Demonstration,
    Ranking,
    Slot,
    SlotState,
    Task,
    Withdrawal,
)

CHUNK = 500


def matching(project, *, annotator, since=None, until=None):
    """The rankings that such a withdrawal would take: current ones that are not withdrawn, held ones included."""
    found = Ranking.objects.filter(task__project=project, annotator=annotator, is_current=True, withdrawn_at=None)
    return within(found, since, until)


def within(rows, since, until):
    if since:
        rows = rows.filter(created_at__gte=since)
    return rows.filter(created_at__lt=until) if until else rows


@transaction.atomic
def withdraw(project, *, annotator, actor, since=None, until=None, reason=""):
    """The Withdrawal of what this person ranked and wrote in the period (until not included), or None for nothing."""
    rankings = matching(project, annotator=annotator, since=since, until=until)
    ids = list(rankings.values_list("pk", flat=True))
    written = Demonstration.objects.filter(project=project, author=annotator, withdrawn_at=None)
    written = list(within(written, since, until).values_list("pk", flat=True))
    if not ids and not written:
        return None
    withdrawal = Withdrawal.objects.create(
        project=project, annotator=annotator, since=since, until=until, reason=reason, count=len(ids), created_by=actor
    )
    now = timezone.now()
    for chunk in chunks(ids):
        rows = Ranking.objects.filter(pk__in=chunk)
        assignments = list(rows.filter(is_counted=True).values_list("assignment_id", flat=True))
        rows.update(withdrawn_at=now, withdrawal=withdrawal)
        reopen(assignments)
    for chunk in chunks(written):
        Demonstration.objects.filter(pk__in=chunk).update(withdrawn_at=now, withdrawal=withdrawal)
    record_event(
        project,
        actor=actor,
        action="judgments.withdrawn",
        subject=annotator.get_username(),
        detail={
            "withdrawal": str(withdrawal.pk),
            "count": len(ids),
            "demonstrations": len(written),
            "since": since and since.isoformat(),
            "until": until and until.isoformat(),
            "reason": reason,
        },
    )
    return withdrawal


def reopen(assignment_ids):
    """Others are asked instead: the slots are open again, the assignments no longer one of those that count."""
    handed_in = Assignment.objects.filter(pk__in=assignment_ids, state=AssignmentState.SUBMITTED)
    slot_ids = list(handed_in.values_list("slot_id", flat=True))
    handed_in.update(state=AssignmentState.SURPLUS)
    slots = Slot.objects.filter(pk__in=slot_ids, state=SlotState.DONE)
    in_queue = Task.objects.filter(closed_at=None).exclude(purpose__in=hidden.MADE_TO_ASK)
    slots.filter(task__in=in_queue).update(state=SlotState.OPEN)
    slots.filter(state=SlotState.DONE).update(state=SlotState.CLOSED)


@transaction.atomic
def reverse(withdrawal, *, actor):
    """How many judgments are in use again, or None where it was reversed before; where a place is taken, surplus.

    Demonstrations come back whole: nobody takes their place.
    """
    now = timezone.now()
    hit = Withdrawal.objects.filter(pk=withdrawal.pk, reversed_at=None).update(reversed_at=now, reversed_by=actor)
    if not hit:
        return None
    used = 0
    rows = Ranking.objects.filter(withdrawal=withdrawal, is_current=True).select_related("assignment__slot")
    for ranking in rows:
        is_counted = ranking.is_counted and take_place(ranking.assignment)
        Ranking.objects.filter(pk=ranking.pk).update(withdrawn_at=None, withdrawal=None, is_counted=is_counted)
        used += is_counted
    written = Demonstration.objects.filter(withdrawal=withdrawal).update(withdrawn_at=None, withdrawal=None)
    record_event(
        withdrawal.project,
        actor=actor,
        action="judgments.brought_back",
        subject=withdrawal.annotator.get_username(),
        detail={
            "withdrawal": str(withdrawal.pk),
            "in_use": used,
            "surplus": len(rows) - used,
            "demonstrations": written,
        },
    )
    return used


def take_place(assignment):
    """Whether the judgment has its slot again: nobody holds it, and nobody else filled it."""
    if assignment is None:
        return True
    vacant = [SlotState.OPEN, SlotState.CLOSED]
    if Slot.objects.filter(pk=assignment.slot_id, state__in=vacant).update(state=SlotState.DONE) != 1:
        return False
    Assignment.objects.filter(pk=assignment.pk).update(state=AssignmentState.SUBMITTED)
    return True


def chunks(values):
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
