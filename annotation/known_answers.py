"""Known answers, by which hidden checks measure: every write to their table."""

import io
import json

from django.db import transaction
from django.utils.translation import gettext as _

from annotation import assignment, completions, hidden, messages, prompts
from annotation.audit import record_event
from annotation.models import KnownAnswer, Pool, Purpose, SlotState, Task, TaskCompletion

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


@transaction.atomic
def import_checks(project, *, file, name, actor=None):
    """How many hidden checks a file makes, all or none; the same file again makes none.

    file: a binary file object, JSONL in the native format, of which prompt, completions, ranking and rationale (the
    explanation) are read. Raises TaskError, whose field begins with the row.
    """
    rows = [read_row(number, line) for number, line in enumerate(file, start=1) if line.strip()]
    lines = [json.dumps({"messages": row["prompt"], "pool": Pool.EVAL}, ensure_ascii=False) for row in rows]
    try:
        report = prompts.import_prompts(
            project, name=name, file=io.BytesIO("\n".join(lines).encode()), created_by=actor, format="jsonl"
        )
    except prompts.PromptError as error:
        raise assignment.TaskError(error.field or "file", str(error)) from None
    if report.already_imported:
        return 0
    made = 0
    for number, row in enumerate(rows, start=1):
        try:
            made += make_imported(project, row, actor)
        except completions.CompletionError as error:
            raise assignment.TaskError(f"row {number}, completions", error.message) from None
        except assignment.TaskError as error:
            raise assignment.TaskError(f"row {number}, {error.field}", error.message) from None
    return made


def read_row(number, line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise assignment.TaskError(f"row {number}", _("is no JSON in UTF-8.")) from None
    listed = row.get("completions") if isinstance(row, dict) else None
    if not isinstance(listed, list) or not all(
        isinstance(item, dict) and isinstance(item.get("messages"), list) and len(item["messages"]) == 1
        for item in listed
    ):
        raise assignment.TaskError(
            f"row {number}, completions", _('must be a list of {"id", "messages": [one answer]}.')
        )
    try:
        messages.check_prompt(row.get("prompt"), field="prompt")
    except messages.MessageError as error:
        raise assignment.TaskError(f"row {number}, {error.field}", error.message) from None
    return row


def make_imported(project, row, actor):
    """1, or 0 where all answers are identical."""
    made = completions.add_completions(
        project,
        rows=[
            {
                "prompt_digest": messages.messages_digest(row["prompt"]),
                "message": item["messages"][0],
                "generator": {"kind": "import"},
            }
            for item in row["completions"]
        ],
    )
    ids = {item.get("id"): str(completion.pk) for item, completion in zip(row["completions"], made, strict=True)}
    if not made:
        raise assignment.TaskError("completions", _("is empty."))
    task = assignment.queue_task(project, prompt=made[0].prompt, completions=made, purpose=Purpose.GOLD)
    if task is None:
        return 0
    order = row.get("ranking")
    if isinstance(order, list) and all(isinstance(group, list) for group in order):
        order = [[ids.get(value, value) if isinstance(value, str) else value for value in group] for group in order]
    explanation = row.get("rationale") or ""
    set_known_answer(task, order=order, actor=actor, explanation=explanation)
    return 1
