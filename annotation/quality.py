"""Figures on judgments: how far people agree, which policy they prefer blind, how each annotator gets on. Reads only.

People's and simulated judgments are never mixed: each figure is about one or the other.
"""

import math
from collections import defaultdict
from itertools import combinations
from statistics import median

from django.db.models import Count, Max, Q
from django.utils import timezone

from annotation.models import (
    Assignment,
    AssignmentState,
    Membership,
    Purpose,
    Ranking,
    Source,
    TaskCompletion,
)

Z = 1.959964  # 95%


def counted(project, *, simulated):
    rankings = Ranking.objects.filter(task__project=project, is_current=True, is_counted=True, withdrawn_at=None)
    if simulated:
        return rankings.filter(source=Source.SIMULATED)
    return rankings.exclude(source=Source.SIMULATED)


def clustered_share(clusters):
    """(share, low, high) of successes over trials, 95%, or three times None.

    clusters: (successes, trials) of each independent unit, such as a prompt; trials within one are not independent.
    A Wilson interval on as many trials as would give the ratio estimator's variance if they were independent.
    """
    clusters = [(successes, trials) for successes, trials in clusters if trials]
    total = sum(trials for _successes, trials in clusters)
    if not total:
        return None, None, None
    share = sum(successes for successes, _trials in clusters) / total
    count = len(clusters)
    effective = float(count)
    if count > 1 and 0 < share < 1:
        spread = sum((successes - share * trials) ** 2 for successes, trials in clusters)
        variance = spread / total**2 * count / (count - 1)
        # Fewer than one unit a cluster or more than all trials would be chance, not knowledge.
        effective = min(max(share * (1 - share) / variance, 1.0), float(total)) if variance > 0 else float(count)
    centre = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * math.sqrt(share * (1 - share) / effective + Z**2 / (4 * effective**2))
    return share, max(0.0, centre - half), min(1.0, centre + half)


def places(order):
    """{completion id: index of its tie group}"""
    return {completion_id: index for index, group in enumerate(order) for completion_id in group}


def pairwise_agreement(project, *, simulated=False):
    """How often two annotators put a pair of answers in the same order, where both prefer one of the two.

    {"agreement", "low", "high", "pairs"}: share and 95% interval (by task), or None; pairs compared.
    """
    by_task = defaultdict(list)
    repeated = (
        counted(project, simulated=simulated)
        .filter(task__overlap__gt=1)
        .order_by("task_id", "created_at")
        .values_list("task_id", "annotator_id", "order")
    )
    for task_id, annotator_id, order in repeated.iterator(chunk_size=1000):
        by_task[task_id].append((annotator_id, places(order)))
    clusters = []
    for judgments in by_task.values():
        same = trials = 0
        for (first, one), (second, other) in combinations(judgments, 2):
            if first == second:
                continue
            for a, b in combinations(sorted(one.keys() & other.keys()), 2):
                if one[a] != one[b] and other[a] != other[b]:
                    trials += 1
                    same += (one[a] < one[b]) == (other[a] < other[b])
        clusters.append((same, trials))
    share, low, high = clustered_share(clusters)
    return {"agreement": share, "low": low, "high": high, "pairs": sum(trials for _same, trials in clusters)}


def win_rate(project, *, new_digest, old_digest, simulated=False):
    """How often the new policy's answer is placed above the old one's in blind comparisons; a tie is half a win.

    {"win_rate", "low", "high", "pairs"}: share and 95% interval (by prompt), or None; pairs compared.
    """
    judged = counted(project, simulated=simulated).filter(task__purpose=Purpose.EVAL)
    entries = TaskCompletion.objects.filter(
        task__project=project,
        task__purpose=Purpose.EVAL,
        completion__policy_digest__in=[new_digest, old_digest],
    ).values_list("task_id", "completion_id", "completion__policy_digest")
    sides = defaultdict(lambda: ([], []))
    for task_id, completion_id, digest in entries.iterator(chunk_size=1000):
        sides[task_id][digest == old_digest].append(str(completion_id))
    by_prompt = defaultdict(lambda: [0.0, 0])
    rows = judged.order_by().values_list("task_id", "task__prompt__digest", "order")
    for task_id, prompt_digest, order in rows.iterator(chunk_size=1000):
        new, old = sides.get(task_id, ((), ()))
        place = places(order)
        for ours in new:
            for theirs in old:
                if ours in place and theirs in place:
                    by_prompt[prompt_digest][0] += (place[ours] < place[theirs]) + 0.5 * (place[ours] == place[theirs])
                    by_prompt[prompt_digest][1] += 1
    share, low, high = clustered_share(by_prompt.values())
    return {"win_rate": share, "low": low, "high": high, "pairs": sum(trials for _wins, trials in by_prompt.values())}


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
    in_project = Ranking.objects.filter(task__project=project, is_current=True)
    totals = {
        row["annotator"]: row
        for row in in_project.order_by()
        .values("annotator")
        .annotate(
            total=Count("pk", filter=Q(is_counted=True)),
            surplus=Count("pk", filter=Q(is_counted=False)),
            today=Count("pk", filter=Q(created_at__gte=start_of_day())),
            last_at=Max("created_at"),
        )
    }
    skipped = dict(
        Assignment.objects.filter(task__project=project, state=AssignmentState.SKIPPED)
        .order_by()
        .values_list("annotator")
        .annotate(count=Count("pk"))
    )
    seconds = defaultdict(list)
    for annotator_id, value in in_project.exclude(seconds=None).order_by().values_list("annotator", "seconds"):
        seconds[annotator_id].append(value)
    return [
        {
            "membership": member,
            "total": totals.get(member.user_id, {}).get("total", 0),
            "today": totals.get(member.user_id, {}).get("today", 0),
            "surplus": totals.get(member.user_id, {}).get("surplus", 0),
            "skipped": skipped.get(member.user_id, 0),
            "median_seconds": median(seconds[member.user_id]) if seconds[member.user_id] else None,
            "last_at": totals.get(member.user_id, {}).get("last_at"),
        }
        for member in Membership.objects.filter(project=project).select_related("user").order_by("user__username")
    ]
