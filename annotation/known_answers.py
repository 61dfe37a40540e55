"""Known answers, by which hidden checks measure: every write to their table."""

from django.db import transaction
from django.utils.translation import gettext as _

from annotation import assignment, hidden, messages
from annotation.audit import record_event
from annotation.models import KnownAnswer, Purpose, SlotState, Task, TaskCompletion

MAX_EXPLANATION = 20_000  # characters


def check_known_order(order, ids):
    """The order, with ids as text. Raises TaskError unless it puts one of the task's answers before another."""
    if not isinstance(order, list) or not all(isinstance(group, list) and group for group in order):
        raise assignment.TaskError(
            "known_answer", _("must be a list of tie groups, such as [[best], [second, third]].")
        )
    order = [[str(value) for value in group] for group in order]
    named = [value for group in order for value in group]
    unknown = [value for value in named if value not in ids]
    if unknown:
        raise assignment.TaskError("known_answer", _("%(id)s is not an answer of this task.") % {"id": unknown[0][:60]})
    if len(set(named)) != len(named):
        raise assignment.TaskError("known_answer", _("names an answer twice."))
    if len(order) < 2:
        raise assignment.TaskError("known_answer", _("must put at least one answer before another."))
    return order


@transaction.atomic
def set_known_answer(task, *, order, actor, explanation=""):
    """The answer by which a gold task measures, or that a practice task explains; an earlier one is replaced.

    Raises TaskError.
    """
    if task.purpose not in (Purpose.GOLD, Purpose.PRACTICE):
        raise assignment.TaskError("known_answer", _("belongs to tasks of purpose gold or practice only."))
    ids = {str(pk) for pk in TaskCompletion.objects.filter(task=task).values_list("completion_id", flat=True)}
    order = check_known_order(order, ids)
    try:
        messages.check_text(explanation, field="explanation", max_length=MAX_EXPLANATION)
    except messages.MessageError as error:
        raise assignment.TaskError(error.field, error.message) from None
    answer, created = KnownAnswer.objects.update_or_create(
        task=task, defaults={"order": order, "explanation": explanation, "created_by": actor}
    )
    record_event(
        task.project,
        actor=actor,
        action="known_answer.given" if created else "known_answer.changed",
        subject=task.pk,
        detail={"order": order},
    )
    return answer


@transaction.atomic
def make_check(task, *, order, actor, explanation=""):
    """A hidden check that asks about the answers of a task that is done, and knows their order. Raises TaskError.

    Done: or else somebody might meet the same answers twice, once as a check.
    """
    if task.slots.filter(state__in=[SlotState.OPEN, SlotState.LEASED]).exists():
        raise assignment.TaskError("task", _("is still being ranked; make a check of it when it is done."))
    existing = Task.objects.filter(source=task, purpose=Purpose.GOLD, closed_at=None).first()
    made = existing or hidden.copy_task(task, purpose=Purpose.GOLD, reason="known answer")
    set_known_answer(made, order=order, actor=actor, explanation=explanation)
    return made
