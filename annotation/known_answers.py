"""Known answers, by which hidden checks measure and practice explains: every write to their table."""

import hashlib
import io
import json
import tempfile
from collections import Counter
from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation import assignment, completions, hidden, messages, prompts
from annotation.audit import record_event
from annotation.models import KnownAnswer, Pool, Purpose, SlotState, Task, TaskCompletion

MAX_EXPLANATION = 20_000  # characters
MAX_FILE_BYTES = 20 * 1024 * 1024


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
    if task.purpose not in hidden.WITH_KNOWN_ANSWER:
        raise assignment.TaskError("known_answer", _("belongs to tasks of purpose gold or practice only."))
    ids = {str(pk) for pk in TaskCompletion.objects.filter(task=task).values_list("completion_id", flat=True)}
    order = check_known_order(order, ids)
    try:
        messages.check_text(explanation, field="explanation", max_length=MAX_EXPLANATION)
    except messages.MessageError as error:
        raise assignment.TaskError(error.field, error.message) from None
    answer, created = KnownAnswer.objects.update_or_create(
        task=task,
        # The time, too: suspicions and weights that rest on the earlier answer are out of date now.
        defaults={
            "order": order,
            "explanation": explanation,
            "created_by": actor,
            "created_at": timezone.now(),
        },
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    made: int  # tasks
    changed: int  # tasks that were there, and have another known answer or explanation now
    identical: int  # rows without a task, all their answers being alike
    already_imported: bool  # the very same file was there before for the same purpose; nothing was made


def describe(report, purpose):
    """What a file made, in a sentence or two."""
    if report.already_imported:
        return _("This very file is already here; nothing was added.")
    if purpose == Purpose.GOLD:
        made = ngettext("%(n)d hidden check was added.", "%(n)d hidden checks were added.", report.made)
    else:
        made = ngettext("%(n)d practice task was added.", "%(n)d practice tasks were added.", report.made)
    sentences = [made % {"n": report.made}]
    if report.changed:
        changed = ngettext(
            "%(n)d that was here has its new known answer.",
            "%(n)d that were here have their new known answers.",
            report.changed,
        )
        sentences.append(changed % {"n": report.changed})
    if report.identical:
        left_out = ngettext(
            "%(n)d row was left out, its answers being all alike.",
            "%(n)d rows were left out, their answers being all alike.",
            report.identical,
        )
        sentences.append(left_out % {"n": report.identical})
    return " ".join(sentences)


@transaction.atomic
def import_file(project, *, file, name, purpose=Purpose.GOLD, file_name="", actor=None):
    """Makes hidden checks, or practice tasks, of a file: a FileReport. All or none; the same file again makes none.

    A row with the prompt and the answers of a task that is asked already corrects what that one knows.

    file: a binary file object, JSONL in the native format, of which prompt, completions, ranking and rationale (the
    explanation) are read. Raises TaskError, whose field begins with the row, counted from 1.
    """
    if purpose not in hidden.WITH_KNOWN_ANSWER:
        choices = ", ".join(hidden.WITH_KNOWN_ANSWER)
        raise assignment.TaskError("purpose", _("must be one of: %(all)s.") % {"all": choices})
    try:
        with tempfile.SpooledTemporaryFile(max_size=prompts.CHUNK_BYTES) as copy:
            sha256 = prompts.copy_file(file, copy)
            if copy.tell() > MAX_FILE_BYTES:
                raise prompts.PromptError(
                    0, "file", _("is larger than %(limit)d MB.") % {"limit": MAX_FILE_BYTES // 2**20}
                )
            rows = list(read_rows(copy))
        lines = (
            json.dumps({"messages": row["prompt"], "pool": Pool.EVAL}, ensure_ascii=False) for _number, row in rows
        )
        report = prompts.import_prompts(
            project,
            name=name,
            file=io.BytesIO("\n".join(lines).encode()),
            file_name=file_name,
            created_by=actor,
            format="jsonl",
            source_sha256=hashlib.sha256(f"{purpose}:{sha256}".encode()).hexdigest(),
        )
    except prompts.PromptError as error:
        place = [_("row %(row)d") % {"row": error.row}] if error.row else []
        raise assignment.TaskError(", ".join(place + [error.field] * bool(error.field)), error.message) from None
    if report.already_imported:
        return FileReport(made=0, changed=0, identical=0, already_imported=True)
    done = Counter(take_row(project, number, row, purpose, actor) for number, row in rows)
    return FileReport(made=done["made"], changed=done["changed"], identical=done["identical"], already_imported=False)


def read_rows(copy):
    """(row number, object) of each line that is not blank. Raises prompts.PromptError."""
    for number, text in prompts.lines(copy):
        if not text.strip():
            continue
        row = prompts.parse_line(number, text)
        try:
            messages.check_prompt(row.get("prompt"), field="prompt")
        except messages.MessageError as error:
            raise prompts.PromptError(number, error.field, error.message) from None
        listed = row.get("completions")
        if not isinstance(listed, list) or not listed or not all(map(is_completion, listed)):
            raise prompts.PromptError(number, "completions", _('must be a list of {"id", "messages": [one answer]}.'))
        if len({item["id"] for item in listed}) != len(listed):
            raise prompts.PromptError(number, "completions", _("has one id twice."))
        yield number, row


def is_completion(item):
    return (
        isinstance(item, dict)
        and isinstance(item.get("id"), str)
        and isinstance(item.get("messages"), list)
        and len(item["messages"]) == 1
    )


def take_row(project, number, row, purpose, actor):
    """What became of a row: "made" a task, "changed" or "kept" one, or none, its answers being all "identical".

    Raises TaskError, whose field has the row.
    """
    explanation = row.get("rationale") or ""
    try:
        task, ids = asked_already(project, row, purpose)
        if task is not None:
            before = (task.known_answer.order, task.known_answer.explanation)
            order = renamed(row.get("ranking"), ids)
            if before == (order, explanation):
                return "kept"
            set_known_answer(task, order=order, actor=actor, explanation=explanation)
            return "changed"
        task, ids = queue_row(project, row, purpose)
        if task is None:
            return "identical"
        set_known_answer(task, order=renamed(row.get("ranking"), ids), actor=actor, explanation=explanation)
    except (completions.CompletionError, assignment.TaskError) as error:
        field = "completions" if isinstance(error, completions.CompletionError) else error.field
        field = {"known_answer": "ranking", "explanation": "rationale"}.get(field, field)
        raise assignment.TaskError(_("row %(row)d") % {"row": number} + f", {field}", error.message) from None
    return "made"


def asked_already(project, row, purpose):
    """(Task, {id of the file: id of its completion}) of a task that asks about these answers already; or (None, {})."""
    digest = messages.messages_digest(row["prompt"])
    tasks = hidden.with_known_answer(project, purpose).filter(prompt__digest=digest)
    wanted = sorted(
        (json.dumps(item["messages"][0].get("content"), sort_keys=True), item["id"])
        for item in row["completions"]
        if isinstance(item["messages"][0], dict)
    )
    for task in tasks.select_related("known_answer").prefetch_related("entries__completion").order_by("created_at"):
        held = sorted(
            (json.dumps(entry.completion.message["content"], sort_keys=True), str(entry.completion_id))
            for entry in task.entries.all()
        )
        if [content for content, _id in held] == [content for content, _id in wanted]:
            return task, {own: known for (_w, own), (_h, known) in zip(wanted, held, strict=True)}
    return None, {}


def queue_row(project, row, purpose):
    """(the new Task or None, {id of the file: id of its completion})."""
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
    task = assignment.queue_task(project, prompt=made[0].prompt, completions=made, purpose=purpose)
    ids = {item["id"]: str(completion.pk) for item, completion in zip(row["completions"], made, strict=True)}
    return task, ids


def renamed(order, ids):
    """The order with the file's ids in our own; what is no order, or no id, stays for check_known_order to refuse."""
    if not isinstance(order, list) or not all(isinstance(group, list) for group in order):
        return order
    return [[ids.get(value, value) if isinstance(value, str) else value for value in group] for group in order]
