"""What one person sees of their own work in a project: history, search, pace, agreement, what is left. Reads only.

Nothing here may tell which task was a hidden check or a repeat: they stand among the others, as on the ranking page.
"""

from collections import defaultdict
from datetime import timedelta
from statistics import median

from annotation import assignment
from annotation.agreement import clustered_share, compare, places_of
from annotation.messages import message_text
from annotation.models import Ranking
from annotation.quality import start_of_day

SEARCHED = 20_000  # newest rankings of one's own that a search looks through
LEAST_PAIRS = 20  # compared with others, before a share of them says anything
AGREEMENT_TASKS = 500  # newest tasks that it is computed from
MOST_LEFT = 1_000  # tasks counted; beyond that there are "many"


def own_rankings(project, user, *, words=""):
    """One's current rankings, newest first; those whose conversation or reason has all of the words."""
    rankings = (
        Ranking.objects.filter(annotator=user, task__project=project, is_current=True, withdrawn_at=None)
        .select_related("task__prompt", "assignment")
        .order_by("-created_at")
    )
    wanted = words.casefold().split()
    return rankings.filter(pk__in=matching(rankings, wanted)) if wanted else rankings


def matching(rankings, wanted):
    # Here and not in the database: SQLite stores a letter beyond ASCII as an escape, and knows no case beyond it.
    rows = rankings.values_list("pk", "rationale", "task__prompt__messages")[:SEARCHED]
    found = []
    for pk, rationale, messages in rows.iterator(chunk_size=1000):
        text = " ".join([rationale, *map(message_text, messages)]).casefold()
        if all(word in text for word in wanted):
            found.append(pk)
    return found[:500]  # as many as a database takes in one list, and as anybody looks through


def figures(project, user):
    """{"periods": [{"name", "count", "minutes", "hours", "pace"}], "left", "most_left", "agreement"} for the page.

    minutes, hours: those in which a task was on the screen; pace: median seconds a task, or None; left: open tasks that
    this person may take, at most MOST_LEFT.
    """
    day = start_of_day()
    since = {"today": day, "week": day - timedelta(days=6), "all": None}
    own = Ranking.objects.filter(annotator=user, task__project=project).order_by()
    # A changed ranking was made when its first version was.
    first_at = dict(own.filter(version=1, is_current=False).values_list("assignment_id", "created_at"))
    current = own.filter(is_current=True).values_list("assignment_id", "created_at", "seconds")
    rows = [(first_at.get(assignment_id, at), seconds) for assignment_id, at, seconds in current]
    return {
        "periods": [period(name, rows, start) for name, start in since.items()],
        "left": len(assignment.open_slots(project, user).values_list("pk", flat=True)[:MOST_LEFT]),
        "most_left": MOST_LEFT,
        "agreement": agreement_with_others(project, user),
    }


def period(name, rows, start):
    seconds = [value for created_at, value in rows if start is None or created_at >= start]
    known = [value for value in seconds if value is not None]
    return {
        "name": name,
        "count": len(seconds),
        "minutes": sum(known) / 60,
        "hours": sum(known) / 3600,
        "pace": median(known) if known else None,
    }


def agreement_with_others(project, user):
    """Share of pairs ordered as others did, with its 95% interval by task, in percent; None while they are few.

    {"percent", "low_percent", "high_percent", "pairs"} of one's newest tasks that others ranked too.
    """
    counted = Ranking.objects.in_use().filter(task__project=project)
    tasks = list(
        counted.filter(annotator=user).order_by("-created_at").values_list("task_id", flat=True)[:AGREEMENT_TASKS]
    )
    orders = defaultdict(dict)  # task -> {annotator: places}
    for task_id, annotator_id, order in (
        counted.filter(task__in=tasks).order_by().values_list("task_id", "annotator_id", "order")
    ):
        orders[task_id][annotator_id] = places_of(order)
    clusters = []
    for of_task in orders.values():
        own = of_task.pop(user.pk)
        compared = [compare(own, other)[:2] for other in of_task.values()]
        clusters.append((sum(alike for alike, _opposite in compared), sum(map(sum, compared))))
    pairs = sum(trials for _alike, trials in clusters)
    if pairs < LEAST_PAIRS:
        return None
    share, low, high = clustered_share(clusters)
    return {
        "percent": round(100 * share),
        "low_percent": round(100 * low),
        "high_percent": round(100 * high),
        "pairs": pairs,
    }
