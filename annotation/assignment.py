"""Tasks, their slots, and who works on which: every write to these tables.

A slot is claimed by one filtered UPDATE; the database's constraints make more than `overlap` counted judgments
impossible.
"""

import random
from datetime import timedelta

from django.db import transaction
from django.db.models import BooleanField, Count, Exists, OuterRef
from django.db.models.expressions import RawSQL
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import hidden, qualification
from annotation.audit import record_event
from annotation.messages import message_text
from annotation.models import (
    BOUNDS,
    TRAINING_PURPOSES,
    Assignment,
    AssignmentState,
    AuditEvent,
    Demonstration,
    Membership,
    Pool,
    Purpose,
    Slot,
    SlotState,
    Task,
    TaskCompletion,
)
from plumbline.durability import forgettable

MIN_COMPLETIONS, MAX_COMPLETIONS = BOUNDS["completions_per_task"]
MIN_OVERLAP, MAX_OVERLAP = BOUNDS["overlap"]
MAX_SHUFFLE = 2**31 - 1
CANDIDATES = 12  # open slots looked at together: enough that many annotators at once rarely reach for the same one
CLAIM_ATTEMPTS = 5
MAX_HELD = 2  # the task on the page, and one loaded ahead
IDENTICAL = "task.all_identical"

# A literal, not a parameter: SQLite uses the partial index `slot_queue` only where it can read the condition.
IS_OPEN = RawSQL("annotation_slot.state = 'open'", (), output_field=BooleanField())

random_source = random.SystemRandom()


class TaskError(ValueError):
    """A task that cannot be queued."""

    def __init__(self, field, message):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotYours(LookupError):
    """The assignment is someone else's; to this person it does not exist."""


class Conflict(Exception):
    """The call contradicts what is already stored."""


def cards_of(completions):
    """[card of each completion]: identical texts share one card."""
    cards = {}
    return [cards.setdefault(completion.text_sha256, len(cards)) for completion in completions]


def check_task(project, *, prompt, completions, purpose, overlap, propensity):
    if prompt.prompt_set.project_id != project.pk:
        raise TaskError("prompt", _("belongs to another project."))
    if not MIN_COMPLETIONS <= len(completions) <= MAX_COMPLETIONS:
        raise TaskError(
            "completions",
            _("A task has from %(low)d to %(high)d answers; these are %(count)d.")
            % {"low": MIN_COMPLETIONS, "high": MAX_COMPLETIONS, "count": len(completions)},
        )
    if len({completion.pk for completion in completions}) != len(completions):
        raise TaskError("completions", _("names an answer twice."))
    if any(completion.prompt_id != prompt.pk for completion in completions):
        raise TaskError("completions", _("has an answer to another prompt."))
    if purpose not in Purpose.values:
        raise TaskError("purpose", _("must be one of: %(all)s.") % {"all": ", ".join(Purpose.values)})
    if purpose in TRAINING_PURPOSES and prompt.pool == Pool.EVAL:
        raise TaskError(
            "purpose",
            _(
                "cannot be “%(purpose)s”: the prompt is of the pool “eval”, on which nothing trains. Leave the purpose "
                "out, and the rankings measure; or import the prompt into another pool."
            )
            % {"purpose": purpose},
        )
    if not isinstance(overlap, int) or isinstance(overlap, bool) or not MIN_OVERLAP <= overlap <= MAX_OVERLAP:
        raise TaskError(
            "overlap",
            _("must be a whole number from %(low)s to %(high)s.") % {"low": MIN_OVERLAP, "high": MAX_OVERLAP},
        )
    if not isinstance(propensity, (int, float)) or not 0 < propensity <= 1:
        raise TaskError("propensity", _("must be a probability above 0."))


@transaction.atomic
def queue_task(
    project,
    *,
    prompt,
    completions,
    purpose=None,
    priority=0,
    overlap=None,
    reason="",
    propensity=1.0,
    batch="",
):
    """The new task with its open slots, or None when all completions are identical (counted, nothing to rank).

    purpose: None trains, or measures (eval) where the prompt is of the pool eval; to train on that pool is refused.
    A gold task gets no slots here: once it has a known answer, it is asked of everybody (hidden.py).
    """
    purpose = purpose or (Purpose.EVAL if prompt.pool == Pool.EVAL else Purpose.TRAIN)
    completions = list(completions)
    overlap = project.overlap if overlap is None else overlap
    check_task(project, prompt=prompt, completions=completions, purpose=purpose, overlap=overlap, propensity=propensity)
    cards = cards_of(completions)
    if max(cards) == 0:
        record_event(project, actor=None, action=IDENTICAL, subject=prompt.digest, detail={"batch": batch})
        return None
    task = Task.objects.create(
        project=project,
        prompt=prompt,
        purpose=purpose,
        priority=priority,
        overlap=overlap,
        reason=reason,
        propensity=propensity,
        batch=batch,
    )
    TaskCompletion.objects.bulk_create(
        TaskCompletion(task=task, completion=completion, position=position, card=card)
        for position, (completion, card) in enumerate(zip(completions, cards, strict=True))
    )
    if purpose in hidden.MADE_TO_ASK:
        return task
    slots = Slot.objects.bulk_create(
        Slot(
            task=task,
            number=number,
            project=project,
            priority=priority,
            shuffle=random_source.randint(0, MAX_SHUFFLE),
        )
        for number in range(1, overlap + 1)
    )
    bar_authors(task, completions, slots[0])
    return task


def bar_authors(task, completions, slot):
    """Nobody ranks a text of their own: whoever wrote one of the answers counts as having been asked."""
    texts = {message_text(completion.message).strip() for completion in completions}
    written = Demonstration.objects.filter(prompt=task.prompt_id, withdrawn_at=None).exclude(author=None)
    authors = {
        author_id
        for author_id, message in written.values_list("author_id", "message")
        if message_text(message).strip() in texts
    }
    now = timezone.now()
    Assignment.objects.bulk_create(
        Assignment(
            slot=slot,
            task=task,
            annotator_id=author_id,
            state=AssignmentState.BARRED,
            lease_expires_at=now,
            ended_at=now,
            presented_order=[],
        )
        for author_id in authors
    )


@transaction.atomic
def close_task(task, *, actor=None):
    """Withdraws a task from the queue; what is being worked on may still be handed in."""
    closed = Task.objects.filter(pk=task.pk, closed_at=None).update(closed_at=timezone.now())
    Slot.objects.filter(task=task, state=SlotState.OPEN).update(state=SlotState.CLOSED)
    if closed:
        record_event(task.project, actor=actor, action="task.closed", subject=task.pk)
    return closed == 1


def next_assignment(project, *, annotator, ahead=False):
    """The lease this annotator already holds, or a new one; None when the queue has nothing for them.

    ahead: one more beside the one held, to be loaded early; never a third.
    """
    with forgettable():
        # One claim a person at a time: two tabs that ask together get the same task (on SQLite by the write lock).
        list(
            Membership.objects.select_for_update(no_key=True)
            .filter(project=project, user=annotator)
            .values_list("pk", flat=True)
        )
        held = list(
            Assignment.objects.filter(annotator=annotator, state=AssignmentState.LEASED, task__project=project)
            .exclude(task__purpose__in=hidden.ON_OTHER_PAGES)
            .select_related("task__prompt")
            .order_by("created_at", "pk")[:MAX_HELD]
        )
        if held and not (ahead and len(held) < MAX_HELD):
            return renew(held[-1] if ahead else held[0], lease_end(project))
        return None if project.archived_at else claim_slot(project, annotator)


def lease_end(project):
    return timezone.now() + timedelta(seconds=project.lease_seconds)


def renew(assignment, lease_expires_at):
    Assignment.objects.filter(pk=assignment.pk, state=AssignmentState.LEASED).update(lease_expires_at=lease_expires_at)
    assignment.lease_expires_at = lease_expires_at
    return assignment


def open_slots(project, annotator):
    """The queue as this annotator sees it, best first: no join, and one index lookup a candidate."""
    already_asked = Assignment.objects.filter(task=OuterRef("task_id"), annotator=annotator, is_repeat=False).exclude(
        state=AssignmentState.EXPIRED
    )
    return Slot.objects.filter(IS_OPEN, ~Exists(already_asked), project=project).order_by("-priority", "shuffle")


def claim_slot(project, annotator):
    test = qualification.settle(project, annotator)
    if test is not None and not test.more:
        return None
    if left := take_up_left(project, annotator, only=Purpose.GOLD if test else None):
        return left
    if test is not None:
        check = hidden.open_check(project, annotator)
        return lease(hidden.make_slot(check), annotator, lease_end(project)) if check else None
    for _attempt in range(CLAIM_ATTEMPTS):
        candidates = list(open_slots(project, annotator)[:CANDIDATES])
        if not candidates:
            return None
        if asked := claim_hidden(project, annotator):
            return asked
        candidates.sort(key=lambda slot: (-slot.priority, random_source.random()))
        for slot in candidates:
            claimed = Slot.objects.filter(pk=slot.pk, state=SlotState.OPEN).update(state=SlotState.LEASED)
            if claimed == 1:
                return lease(slot, annotator, lease_end(project))
            # Another annotator got there first.
    return None


def take_up_left(project, annotator, *, only=None):
    """What this person had and left, if it is still free: theirs first, with the draft in their browser; or None.

    Checks and repeats as well, or else what does not come back would betray them. only: of this purpose.
    """
    left = Assignment.objects.filter(
        hidden.VACANT, annotator=annotator, state=AssignmentState.EXPIRED, slot__project=project, task__closed_at=None
    ).exclude(task__purpose__in=hidden.ON_OTHER_PAGES)
    if only:
        left = left.filter(task__purpose=only)
    assignment = left.select_related("task__prompt").order_by("created_at", "pk").first()
    return assignment if assignment and take_up(assignment, lease_end(project)) else None


def take_up(assignment, lease_expires_at):
    """Leases an expired assignment again; False if somebody else has its slot."""
    vacant = hidden.vacant_state(assignment.task)
    if Slot.objects.filter(pk=assignment.slot_id, state=vacant).update(state=SlotState.LEASED) != 1:
        return False
    Assignment.objects.filter(pk=assignment.pk).update(
        state=AssignmentState.LEASED, lease_expires_at=lease_expires_at, ended_at=None
    )
    assignment.state, assignment.lease_expires_at = AssignmentState.LEASED, lease_expires_at
    return True


def claim_hidden(project, annotator):
    """A check or a repeat in place of a real task, as often as the project asks for; or None."""
    # Looked for before the dice are thrown: a check must not take longer than a real task.
    check = hidden.open_check(project, annotator) if project.gold_share else None
    chance = random_source.random()
    if check and chance < project.gold_share:
        return lease(hidden.make_slot(check), annotator, lease_end(project))
    if not project.gold_share <= chance < project.gold_share + project.repeat_share:
        return None
    ranking = hidden.repeatable_ranking(project, annotator, random_source.choice)
    if ranking is None:
        return None
    task = hidden.copy_task(ranking.task, purpose=Purpose.REPEAT, reason="repeat")
    return lease(hidden.make_slot(task), annotator, lease_end(project), is_repeat=True)


def lease(slot, annotator, lease_expires_at, *, is_repeat=False):
    """The assignment of a slot just claimed. One that had expired is taken up again, its shown order kept."""
    expired = Assignment.objects.filter(
        task=slot.task_id, annotator=annotator, is_repeat=False, state=AssignmentState.EXPIRED
    )
    if expired.update(state=AssignmentState.LEASED, slot=slot, lease_expires_at=lease_expires_at, ended_at=None):
        return Assignment.objects.select_related("task__prompt").get(
            task=slot.task_id, annotator=annotator, is_repeat=False
        )
    assignment = Assignment.objects.create(
        slot=slot,
        task_id=slot.task_id,
        annotator=annotator,
        is_repeat=is_repeat,
        lease_expires_at=lease_expires_at,
        presented_order=shuffled_cards(slot.task_id),
    )
    assignment.task = Task.objects.select_related("prompt").get(pk=slot.task_id)
    return assignment


def shuffled_cards(task_id):
    """One completion id a card, in the order in which the page will show them."""
    first_of_card = {}
    for completion_id, card in (
        TaskCompletion.objects.filter(task=task_id).order_by("position").values_list("completion_id", "card")
    ):
        first_of_card.setdefault(card, str(completion_id))
    shown = list(first_of_card.values())
    random_source.shuffle(shown)
    return shown


def lock_own(assignment, annotator):
    """The assignment's row, locked until the transaction ends. Raises NotYours."""
    row = (
        Assignment.objects.select_for_update(of=("self",), no_key=True)
        .select_related("task__project", "task__prompt__prompt_set")
        .filter(pk=assignment.pk, annotator=annotator)
        .first()
    )
    if row is None:
        raise NotYours(assignment.pk)
    return row


def end_lease(assignment, state, **fields):
    Assignment.objects.filter(pk=assignment.pk).update(state=state, ended_at=timezone.now(), **fields)
    assignment.state = state


def reopen_slots(slot_ids):
    slots = Slot.objects.filter(pk__in=slot_ids, state=SlotState.LEASED)
    slots.filter(task__closed_at=None).exclude(task__purpose__in=hidden.MADE_TO_ASK).update(state=SlotState.OPEN)
    slots.update(state=SlotState.CLOSED)


@forgettable()
def heartbeat(assignment, *, annotator):
    """The assignment, its lease longer; one that had expired is leased again if nobody else took its slot."""
    assignment = lock_own(assignment, annotator)
    lease_expires_at = lease_end(assignment.task.project)
    if assignment.state == AssignmentState.LEASED:
        return renew(assignment, lease_expires_at)
    if assignment.state == AssignmentState.EXPIRED:
        take_up(assignment, lease_expires_at)
    return assignment


@transaction.atomic
def skip(assignment, *, annotator, reason=""):
    """The slot goes to someone else, and this person is not asked again. Raises Conflict after a submission."""
    assignment = lock_own(assignment, annotator)
    if assignment.state == AssignmentState.SKIPPED:
        return assignment
    if assignment.state not in (AssignmentState.LEASED, AssignmentState.EXPIRED):
        raise Conflict(_("This task is already submitted, so it cannot be skipped."))
    was_leased = assignment.state == AssignmentState.LEASED
    end_lease(assignment, AssignmentState.SKIPPED, skip_reason=reason.replace("\x00", "")[:200])
    if was_leased:
        reopen_slots([assignment.slot_id])
    return assignment


@transaction.atomic
def release(assignment, *, annotator, lease_expires_at=None):
    """Gives a lease back at once, without a word about the task: the same person gets it again while it is free.

    lease_expires_at: as the caller knows it. A lease that was renewed since is in use elsewhere (a page that was
    loaded again, another tab) and stays.
    """
    assignment = lock_own(assignment, annotator)
    is_renewed = lease_expires_at is not None and lease_expires_at != assignment.lease_expires_at
    if assignment.state == AssignmentState.LEASED and not is_renewed:
        end_lease(assignment, AssignmentState.EXPIRED)
        reopen_slots([assignment.slot_id])
    return assignment


def expire_leases(now=None):
    """How many leases ended; their slots are open again."""
    now = now or timezone.now()
    overdue = Assignment.objects.filter(state=AssignmentState.LEASED, lease_expires_at__lte=now)
    # Looked at before the transaction: on SQLite that would take the write lock every few seconds for nothing.
    if not overdue.exists():
        return 0
    with transaction.atomic():
        rows = list(overdue.select_for_update(skip_locked=True, no_key=True).values_list("pk", "slot_id")[:500])
        for pk, _slot_id in rows:
            Assignment.objects.filter(pk=pk).update(state=AssignmentState.EXPIRED, ended_at=now)
        reopen_slots([slot_id for _pk, slot_id in rows])
    return len(rows)


def queue_figures(project):
    """{"open", "leased", "done", "closed": slots, "tasks", "identical": tasks not made, all answers being alike}."""
    figures = dict.fromkeys(SlotState.values, 0)
    figures |= dict(Slot.objects.filter(project=project).order_by().values_list("state").annotate(count=Count("pk")))
    figures["tasks"] = Task.objects.filter(project=project, closed_at=None).count()
    figures["identical"] = AuditEvent.objects.filter(project=project, action=IDENTICAL).count()
    return figures
