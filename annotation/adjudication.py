"""Tasks on which people disagree, and the reviewer's ranking that settles each: claims and releases.

A settled task trains with the reviewer's ranking alone; the others stay in the figures on agreement.
"""

from django.db import transaction
from django.db.models import Exists, OuterRef

from annotation import assignment, hidden
from annotation.models import (
    Assignment,
    AssignmentState,
    Pool,
    Purpose,
    QualityReport,
    Ranking,
    Slot,
    SlotState,
    Task,
)


def disputes(project):
    """Training tasks that people order differently and that nobody has settled, the most disputed first.

    As of the last reports (reports.py), people's first; each with `agreement` and `judgments`.
    """
    figures = {}
    for report in QualityReport.objects.filter(project=project).order_by("simulated"):
        for task_id, agreement, count in report.figures.get("disputes", []):
            figures.setdefault(task_id, (agreement, count))
    taken = Task.objects.filter(
        source=OuterRef("pk"), purpose=Purpose.ADJUDICATION, slots__state__in=[SlotState.LEASED, SlotState.DONE]
    )
    open_tasks = trainable_tasks(project).filter(pk__in=figures).exclude(Exists(taken)).select_related("prompt")
    found = {str(task.pk): task for task in open_tasks}
    for task_id, task in found.items():
        task.agreement, task.judgments = figures[task_id]
    return [found[task_id] for task_id in figures if task_id in found]


def trainable_tasks(project):
    """Those that a reviewer may settle: what is settled trains, and what measures must not."""
    return Task.objects.filter(project=project, purpose=Purpose.TRAIN).exclude(prompt__pool=Pool.EVAL)


def settled(project):
    """The reviewers' rankings in use, newest first, each with `check`: the hidden check made of its task, or None."""
    rankings = (
        Ranking.objects.in_use()
        .filter(task__project=project, task__purpose=Purpose.ADJUDICATION)
        .select_related("task__source__prompt", "annotator")
        .order_by("-created_at")
    )
    checks = dict(
        Task.objects.filter(project=project, purpose=Purpose.GOLD, closed_at=None, source__isnull=False).values_list(
            "source_id", "pk"
        )
    )
    for ranking in rankings:
        ranking.check = checks.get(ranking.task.source_id)
    return rankings


@transaction.atomic
def next_dispute(project, *, reviewer, task=None):
    """The Assignment of a dispute that this reviewer holds, or of the next one (`task`: of this one); or None.

    Nobody settles a task that they ranked themselves.
    """
    # Held by the membership's row, as other claims are: two tabs that ask together get the same dispute.
    list(project.memberships.select_for_update(no_key=True).filter(user=reviewer).order_by("pk").values_list("pk"))
    held = Assignment.objects.filter(
        annotator=reviewer,
        state=AssignmentState.LEASED,
        task__project=project,
        task__purpose=Purpose.ADJUDICATION,
    ).select_related("task__prompt", "task__project")
    if task is None and (first := held.order_by("created_at").first()):
        return assignment.renew(first, assignment.lease_end(project))
    if task is not None and (same := held.filter(task__source=task).first()):
        return assignment.renew(same, assignment.lease_end(project))
    asked = Assignment.objects.filter(annotator=reviewer, task__project=project).exclude(state=AssignmentState.EXPIRED)
    # Under its own id, or as the copy made to settle it, which this reviewer skipped or had withdrawn.
    own = {pk for pair in asked.values_list("task_id", "task__source_id") for pk in pair}
    for dispute in disputes(project):
        wanted = dispute.pk not in own and (task is None or dispute.pk == task.pk)
        if wanted and (leased := claim(dispute, reviewer)):
            return leased
    return None


def claim(dispute, reviewer):
    """The reviewer's Assignment, or None where somebody else was first."""
    # One adjudication a task, whoever comes first.
    Task.objects.select_for_update(no_key=True).get(pk=dispute.pk)
    made = Task.objects.filter(source=dispute, purpose=Purpose.ADJUDICATION).first()
    if made is None:
        made = hidden.copy_task(dispute, purpose=Purpose.ADJUDICATION, reason="disagreement")
    if Slot.objects.filter(task=made, state__in=[SlotState.LEASED, SlotState.DONE]).exists():
        return None
    return assignment.lease(hidden.make_slot(made), reviewer, assignment.lease_end(dispute.project))
