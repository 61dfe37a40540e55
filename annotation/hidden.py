"""What is hidden among the real tasks: checks with a known answer, and repeats of one's own tasks.

Only where a real task waits as well, and by the same steps, so that nothing (ids, order, timing) tells them apart.
Their slots are made when they are claimed: a check is asked of everybody, a repeat of one person.
"""

from datetime import timedelta

from django.db import models
from django.utils import timezone

from annotation.models import (
    Assignment,
    AssignmentState,
    Purpose,
    Ranking,
    Slot,
    SlotState,
    Task,
    TaskCompletion,
)

# Slots of these are no part of the queue: one that is given back is closed, and made again for whoever comes next.
MADE_TO_ASK = (Purpose.GOLD, Purpose.REPEAT, Purpose.ADJUDICATION, Purpose.PRACTICE)
WITH_KNOWN_ANSWER = (Purpose.GOLD, Purpose.PRACTICE)
ON_OTHER_PAGES = (Purpose.ADJUDICATION, Purpose.PRACTICE)  # never handed out with the real tasks
RANKED_BEFORE_REPEATS = 20  # rankings of one's own before the first repeat
RANKED_BETWEEN = 15  # rankings since the one that is asked again: it must not be remembered
LONGEST_AGO = timedelta(days=30)


def vacant_state(task):
    """The state of a slot of this task that nobody holds."""
    return SlotState.CLOSED if task.purpose in MADE_TO_ASK else SlotState.OPEN


# vacant_state, of an Assignment's slot.
VACANT = models.Q(slot__state=SlotState.OPEN) | models.Q(slot__state=SlotState.CLOSED, task__purpose__in=MADE_TO_ASK)


def with_known_answer(project, *purposes):
    """Tasks for these purposes that are still asked and whose answer is known."""
    return Task.objects.filter(project=project, purpose__in=purposes, closed_at=None, known_answer__isnull=False)


def open_check(project, annotator):
    """A gold task with a known answer that this person has not met, nor the task that it was made from; or None."""
    asked = Assignment.objects.filter(annotator=annotator).exclude(state=AssignmentState.EXPIRED)
    return (
        with_known_answer(project, Purpose.GOLD)
        .exclude(models.Exists(asked.filter(task=models.OuterRef("pk"))))
        .exclude(models.Exists(asked.filter(task=models.OuterRef("source"))))
        .select_related("prompt")
        .order_by("?")
        .first()
    )


def repeatable_ranking(project, annotator, choose):
    """One of this person's rankings, long enough ago and never asked again; or None. choose: such as random.choice."""
    own = Ranking.objects.in_use().filter(
        annotator=annotator,
        task__project=project,
        task__purpose=Purpose.TRAIN,
        created_at__gte=timezone.now() - LONGEST_AGO,
    )
    newest = list(own.order_by("-created_at").values_list("pk", flat=True)[: 10 * RANKED_BETWEEN])
    if len(newest) < RANKED_BEFORE_REPEATS:
        return None
    again = Task.objects.filter(
        purpose=Purpose.REPEAT, source=models.OuterRef("task"), assignments__annotator=annotator
    )
    candidates = Ranking.objects.filter(pk__in=newest[RANKED_BETWEEN:]).exclude(models.Exists(again))
    found = list(candidates.values_list("pk", flat=True))
    return Ranking.objects.select_related("task__prompt").get(pk=choose(found)) if found else None


def copy_task(task, *, purpose, reason):
    """A task that asks about the same answers again, without slots."""
    made = Task.objects.create(
        project_id=task.project_id, prompt_id=task.prompt_id, purpose=purpose, source=task, reason=reason
    )
    TaskCompletion.objects.bulk_create(
        TaskCompletion(task=made, completion_id=entry.completion_id, position=entry.position, card=entry.card)
        for entry in task.entries.all()
    )
    return made


def make_slot(task):
    """A slot that whoever asked for it holds already."""
    # Locked, so that two people who are asked at once get two numbers.
    Task.objects.select_for_update(no_key=True).get(pk=task.pk)
    last = task.slots.aggregate(last=models.Max("number"))["last"] or 0
    return Slot.objects.create(
        task=task, number=last + 1, state=SlotState.LEASED, project_id=task.project_id, shuffle=0
    )
