"""Metrics: what a run has told so far, read for charts and pages. `runs.record_events` writes it."""

import os

from django.db.models import Max, Min

from training.models import Metric, RunEvent
from training.runs import data_path

MOST_POINTS = 5000  # in one answer; the next begins after the last step of this one
LOG_BYTES = 200_000


def series(run, after=-1, names=None):
    """[{"step", "values": {name: number or None}, "time"}] of the steps behind `after`, oldest first."""
    rows = Metric.objects.filter(run=run, step__gt=after).order_by("step")[:MOST_POINTS]
    return [
        {
            "step": row.step,
            "values": {name: value for name, value in row.values.items() if names is None or name in names},
            "time": row.time,
        }
        for row in rows
    ]


def seconds_per_step(run):
    """The pace of a run between its first and its newest metrics; None before there are two. Starting up is no part."""
    found = Metric.objects.filter(run=run).aggregate(
        first=Min("time"), last=Max("time"), first_step=Min("step"), last_step=Max("step")
    )
    if not found["last_step"] or found["last_step"] == found["first_step"]:
        return None
    return (found["last"] - found["first"]).total_seconds() / (found["last_step"] - found["first_step"])


def samples(run):
    """The newest samples of a run: [{"prompt", "completion", "reference", "score", "reference_score"}], or []."""
    event = RunEvent.objects.filter(run=run, kind="samples").order_by("step", "id").last()
    return event.payload.get("samples", []) if event else []


def messages(run):
    """What a run said in words: events of the kind log, oldest first."""
    return RunEvent.objects.filter(run=run, kind="log").order_by("id")


def log(run, *, most_bytes=LOG_BYTES):
    """The end of what the engine wrote to its log, all attempts one after the other; empty where all went well."""
    parts, left = [], most_bytes
    for attempt in run.attempt_rows.order_by("-number"):
        tail = read_tail(data_path(attempt.directory) / "engine.log", left)
        if tail:
            parts.insert(0, f"--- {attempt.number} ---\n" + tail.decode("utf-8", "replace"))
            left -= len(tail)
        if left <= 0:
            break
    return "\n".join(parts)


def read_tail(path, most_bytes):
    """The last bytes of a file of any size; None where there is no file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - most_bytes))
            return file.read(most_bytes)
    except OSError:
        return None
