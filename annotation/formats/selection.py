"""Which judgments an export or a snapshot takes, and how they are read: streaming, oldest first."""

import json
from dataclasses import dataclass

from django.db.models import Prefetch

from annotation.models import MEASURING_PURPOSES, Membership, Purpose, Ranking, Source, TaskCompletion
from annotation.projects import fallback_pseudonym

CHUNK = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgmentFilter:
    """purposes: None takes the format's own (native: all; formats made for training: those that may train)."""

    purposes: tuple | None = None
    simulated: str = "include"  # include | exclude | only


# Line ends to some readers (Python's splitlines among them), though not to JSON.
ESCAPED = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\u0085\u2028\u2029"})


def to_line(value):
    """One JSON object, keys in the order in which the format lists them."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPED) + "\n"


def ordered(value):
    """A stored JSON value with its keys in one order, role and type first: PostgreSQL does not keep the order given."""
    if isinstance(value, dict):
        return {key: ordered(value[key]) for key in sorted(value, key=lambda key: (key not in ("role", "type"), key))}
    if isinstance(value, list):
        return [ordered(item) for item in value]
    return value


def select_rankings(project, selection, *, purposes=None):
    """Current, counted rankings that were not withdrawn, with their task, prompt and completions loaded."""
    rankings = Ranking.objects.in_use().filter(task__project=project).order_by("created_at", "pk")
    purposes = selection.purposes or purposes
    if purposes:
        rankings = rankings.filter(task__purpose__in=purposes)
        if not set(purposes) & set(MEASURING_PURPOSES):
            rankings = rankings.without_measuring()
        if Purpose.ADJUDICATION in purposes:
            rankings = rankings.without_settled()
    return (
        filter_simulated(rankings, selection.simulated)
        .select_related("task__prompt__prompt_set")
        .prefetch_related(
            Prefetch("task__entries", TaskCompletion.objects.select_related("completion").order_by("position"))
        )
    )


def filter_simulated(rows, simulated):
    if simulated == "exclude":
        return rows.exclude(source=Source.SIMULATED)
    if simulated == "only":
        return rows.filter(source=Source.SIMULATED)
    return rows


def read_rankings(project, selection, *, purposes=None):
    return select_rankings(project, selection, purposes=purposes).iterator(chunk_size=CHUNK)


def read_pseudonyms(project):
    """{user id: the name by which files know this person}"""
    return dict(Membership.objects.filter(project=project).values_list("user_id", "pseudonym"))


def pseudonym_of(project, pseudonyms, user_id):
    """Empty where the account was deleted or there never was one."""
    if user_id is None:
        return ""
    return pseudonyms.get(user_id) or fallback_pseudonym(project, user_id)


def completions_by_id(ranking):
    """{id as text: Completion} of the ranking's task, in the task's order."""
    return {str(entry.completion_id): entry.completion for entry in ranking.task.entries.all()}
