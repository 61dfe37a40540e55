"""A project's rankings as Judgments, for the figures on quality. Reads only; people's and simulated ones apart."""

from collections import defaultdict

from django.db.models import Count, Max, Q, TextField
from django.db.models.functions import Cast, Length

from annotation.agreement import Judgment, places_of
from annotation.messages import sha256_of_json
from annotation.models import (
    KnownAnswer,
    Purpose,
    Ranking,
    Source,
    Suspicion,
    SuspicionState,
    TaskCompletion,
    Withdrawal,
)

COMPARED = (Purpose.TRAIN, Purpose.EVAL, Purpose.GOLD)  # by different people, each for the first time
CHUNK = 1000


def of_source(rankings, *, simulated):
    if simulated:
        return rankings.filter(source=Source.SIMULATED)
    return rankings.exclude(source=Source.SIMULATED)


def in_use(project, *, simulated):
    """Rankings that count, of people or simulated."""
    return of_source(Ranking.objects.in_use().filter(task__project=project), simulated=simulated)


def read_judgments(project, *, simulated, lengths=None):
    """Judgments of tasks that different people may meet, oldest first. lengths: {completion id: length}, if wanted."""
    rows = (
        in_use(project, simulated=simulated)
        .filter(task__purpose__in=COMPARED)
        .order_by("created_at", "pk")
        .values_list("pk", "task_id", "annotator_id", "order", "presented_order", "seconds", "created_at")
    )
    for pk, task_id, annotator_id, order, presented, seconds, created_at in rows.iterator(chunk_size=CHUNK):
        places = places_of(order)
        yield Judgment(
            id=pk,
            task=task_id,
            annotator=annotator_id,
            places=places,
            presented=tuple(presented),
            lengths={key: lengths[key] for key in places if key in lengths} if lengths else {},
            seconds=seconds,
            at=created_at.timestamp(),
        )


def read_lengths(project):
    """{completion id: length}: tokens where all of a task's were counted, else characters of the message."""
    rows = TaskCompletion.objects.filter(task__project=project, task__purpose__in=COMPARED).values_list(
        "task_id",
        "completion_id",
        "completion__completion_tokens",
        Length(Cast("completion__message", TextField())),
    )
    by_task = defaultdict(list)
    for task_id, completion_id, tokens, characters in rows.iterator(chunk_size=CHUNK):
        by_task[task_id].append((str(completion_id), tokens, characters))
    found = {}
    for entries in by_task.values():
        in_tokens = all(tokens is not None for _key, tokens, _characters in entries)
        found |= {key: tokens if in_tokens else characters for key, tokens, characters in entries}
    return found


def read_known(project, *, annotator):
    """Judgments by `annotator` that say what is known: of gold tasks, and of tasks that a reviewer has settled."""
    for task_id, order in KnownAnswer.objects.filter(task__project=project).values_list("task_id", "order"):
        yield Judgment(task=task_id, annotator=annotator, places=places_of(order))
    settled = Ranking.objects.in_use().filter(
        task__project=project, task__purpose=Purpose.ADJUDICATION, task__source__isnull=False
    )
    for task_id, order in settled.values_list("task__source_id", "order"):
        yield Judgment(task=task_id, annotator=annotator, places=places_of(order))


def read_repeats(project, judgments, *, simulated):
    """(first Judgment, Judgment again) of each task that somebody was asked twice, oldest first."""
    first = {(judgment.task, judgment.annotator): judgment for judgment in judgments}
    rows = (
        in_use(project, simulated=simulated)
        .filter(task__purpose=Purpose.REPEAT)
        .order_by("created_at", "pk")
        .values_list("task__source_id", "annotator_id", "order")
    )
    for source_id, annotator_id, order in rows:
        if (source_id, annotator_id) in first:
            again = Judgment(task=source_id, annotator=annotator_id, places=places_of(order))
            yield first[source_id, annotator_id], again


def cleared_at(project):
    """{user id: when a reviewer last cleared them, in seconds since the epoch}: what came before is no evidence."""
    rows = Suspicion.objects.filter(membership__project=project, state=SuspicionState.CLEARED)
    found = rows.order_by().values_list("membership__user_id").annotate(last=Max("decided_at"))
    return {user_id: last.timestamp() for user_id, last in found}


def fingerprint(project, *, simulated):
    """A short text that changes whenever the judgments do, or what is known of them: counts, and times of changes."""
    rankings = of_source(Ranking.objects.filter(task__project=project), simulated=simulated)
    counts = rankings.aggregate(
        all=Count("pk"),
        withdrawn=Count("pk", filter=Q(withdrawn_at__isnull=False)),
        held=Count("pk", filter=Q(is_held=True)),
    )
    known = KnownAnswer.objects.filter(task__project=project).aggregate(n=Count("pk"), last=Max("created_at"))
    decided = Suspicion.objects.filter(membership__project=project, decided_at__isnull=False).count()
    withdrawn = Withdrawal.objects.filter(project=project).aggregate(last=Max("created_at"), back=Max("reversed_at"))
    times = (known["last"], withdrawn["last"], withdrawn["back"])
    return sha256_of_json([counts, known["n"], decided, [moment and moment.timestamp() for moment in times]])
