"""Figures on judgments: how far people agree, which policy they prefer blind, how each annotator gets on. Reads only.

People's and simulated judgments are never mixed: each figure is about one or the other.
"""

from collections import defaultdict
from datetime import timedelta
from itertools import product
from statistics import median

from django.db.models import Count, F, Max, Q, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from annotation import agreement, judgments
from annotation.agreement import clustered_share, places_of
from annotation.models import (
    Assignment,
    AssignmentState,
    Membership,
    Purpose,
    QualityReport,
    Ranking,
    TaskCompletion,
)

CHUNK = 500  # tasks asked about at once
TRUSTED_AGE = timedelta(seconds=60)  # of a stored report, before a page asks whether it is still true


def stored_report(project, *, simulated):
    """The report that the reconciler keeps, or None where there is none, or where it has stopped keeping it."""
    report = QualityReport.objects.filter(project=project, simulated=simulated).first()
    if report is None:
        return None
    age = timezone.now() - report.computed_at
    if age < max(TRUSTED_AGE, 30 * timedelta(seconds=report.seconds)):
        return report
    return report if report.fingerprint == judgments.fingerprint(project, simulated=simulated) else None


def pairwise_agreement(project, *, simulated=False):
    """How far two people agree, as agreement.pairwise_agreement; at most a minute old."""
    report = stored_report(project, simulated=simulated)
    if report:
        return report.figures["agreement"]
    return agreement.pairwise_agreement(judgments.read_judgments(project, simulated=simulated))


def win_rate(project, *, new_digest, old_digest, simulated=False):
    """How often the new policy's answer is placed above the old one's in blind comparisons; a tie is half a win.

    {"win_rate", "low", "high", "pairs"}: share and 95% interval (by prompt), or None; pairs compared.
    """
    sides = compared_sides(project, new_digest, old_digest)
    by_prompt = defaultdict(lambda: [0.0, 0])
    judged = judgments.in_use(project, simulated=simulated).order_by()
    tasks = list(sides)
    for start in range(0, len(tasks), CHUNK):
        rows = judged.filter(task__in=tasks[start : start + CHUNK])
        for task_id, prompt_digest, order in rows.values_list("task_id", "task__prompt__digest", "order"):
            place = places_of(order)
            for ours, theirs in product(*sides[task_id]):
                if ours in place and theirs in place:
                    by_prompt[prompt_digest][0] += (place[ours] < place[theirs]) + 0.5 * (place[ours] == place[theirs])
                    by_prompt[prompt_digest][1] += 1
    share, low, high = clustered_share(by_prompt.values())
    return {"win_rate": share, "low": low, "high": high, "pairs": sum(trials for _wins, trials in by_prompt.values())}


def compared_sides(project, new_digest, old_digest):
    """{task id: (ids of the new policy's answers, of the old one's)} of the blind comparisons of these two alone."""
    entries = TaskCompletion.objects.filter(
        task__project=project, task__purpose=Purpose.EVAL, completion__policy_digest__in=[new_digest, old_digest]
    ).order_by()
    sides = defaultdict(lambda: ([], []))
    for task_id, completion_id, digest in entries.values_list("task_id", "completion_id", "completion__policy_digest"):
        sides[task_id][digest == old_digest].append(str(completion_id))
    return {task_id: (new, old) for task_id, (new, old) in sides.items() if new and old}


def start_of_day(now=None):
    return timezone.localtime(now or timezone.now()).replace(hour=0, minute=0, second=0, microsecond=0)


def today(project, *, annotator):
    """{"done", "goal", "median_seconds"}: this annotator's tasks since midnight, and seconds a task or None."""
    rows = Ranking.objects.filter(
        annotator=annotator, task__project=project, version=1, created_at__gte=start_of_day()
    ).values_list("seconds", flat=True)
    seconds = [value for value in rows if value is not None]
    return {
        "done": len(rows),
        "goal": project.daily_goal,
        "median_seconds": median(seconds) if seconds else None,
    }


def annotator_progress(project):
    """A dict a member, by name: {"membership", "total", "today", "surplus", "skipped", "median_seconds", "last_at"}."""
    in_project = Ranking.objects.filter(task__project=project)
    totals = {
        row["annotator"]: row
        for row in in_project.order_by()
        .values("annotator")
        .annotate(
            total=Count("pk", filter=Q(is_current=True, is_counted=True)),
            surplus=Count("pk", filter=Q(is_current=True, is_counted=False)),
            # As in `today`: a change of an earlier ranking is no new one.
            today=Count("pk", filter=Q(version=1, created_at__gte=start_of_day())),
            last_at=Max("created_at"),
        )
    }
    skipped = dict(
        Assignment.objects.filter(task__project=project, state=AssignmentState.SKIPPED)
        .order_by()
        .values_list("annotator")
        .annotate(count=Count("pk"))
    )
    seconds = middle_seconds(in_project.filter(is_current=True))
    return [
        {
            "membership": member,
            "total": totals.get(member.user_id, {}).get("total", 0),
            "today": totals.get(member.user_id, {}).get("today", 0),
            "surplus": totals.get(member.user_id, {}).get("surplus", 0),
            "skipped": skipped.get(member.user_id, 0),
            "median_seconds": median(seconds[member.user_id]) if member.user_id in seconds else None,
            "last_at": totals.get(member.user_id, {}).get("last_at"),
        }
        for member in Membership.objects.filter(project=project).select_related("user").order_by("user__username")
    ]


def middle_seconds(rankings):
    """{annotator id: the one or two times in the middle of theirs}, found by the database: there may be many."""
    placed = rankings.exclude(seconds=None).annotate(
        place=Window(RowNumber(), partition_by="annotator", order_by="seconds"),
        times=Window(Count("pk"), partition_by="annotator"),
    )
    middle = placed.filter(times__lte=2 * F("place"), times__gte=2 * F("place") - 2)
    found = defaultdict(list)
    for annotator_id, seconds in middle.order_by().values_list("annotator", "seconds"):
        found[annotator_id].append(seconds)
    return found
