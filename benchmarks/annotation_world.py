"""Fills and reads Plumbline's database for benchmarks/annotation.py, as a program of its own beside the server.

The settings are the environment's. Prints one JSON object.
"""

import io
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ["DJANGO_SETTINGS_MODULE"] = "plumbline.settings"

import django  # noqa: E402

django.setup()

from annotation_sides import TEXTS  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django.db.models import Count, Q  # noqa: E402

from annotation import assignment, projects, prompts, rankings  # noqa: E402
from annotation.messages import text_sha256  # noqa: E402
from annotation.models import Completion, Ranking, Slot, Task, TaskCompletion  # noqa: E402
from plumbline import accounts, tokens  # noqa: E402

BATCH = 500
CLAIMS = 200


def prepare(tasks, annotators, overlap):
    """{"slug", "tokens"} of a project with so many tasks and people."""
    project = projects.create_project(name="Stories", created_by=None, overlap=overlap)
    users = [accounts.create_user(f"annotator{number}") for number in range(annotators)]
    for user in users:
        projects.add_member(project, user)
    add_tasks(project, tasks, overlap)
    return {"slug": project.slug, "tokens": [tokens.create_token(user, name="benchmark") for user in users]}


def add_tasks(project, count, overlap):
    """Rows as queue_task makes them, many at once."""
    lines = "\n".join(json.dumps({"prompt": f"Tell story {number}.", "pool": "reward"}) for number in range(count))
    imported = prompts.import_prompts(project, name="stories", file=io.BytesIO(lines.encode())).prompt_set
    found = list(imported.prompts.all())
    for start in range(0, count, BATCH):
        add_batch(project, found[start : start + BATCH], overlap)


@transaction.atomic
def add_batch(project, batch, overlap):
    messages = [{"role": "assistant", "content": text} for text in TEXTS]
    tasks = Task.objects.bulk_create(Task(project=project, prompt=prompt, overlap=overlap) for prompt in batch)
    completions = Completion.objects.bulk_create(
        Completion(prompt=prompt, message=message, text_sha256=text_sha256(message), generator={"kind": "import"})
        for prompt in batch
        for message in messages
    )
    TaskCompletion.objects.bulk_create(
        TaskCompletion(
            task=tasks[index // len(TEXTS)],
            completion=completion,
            position=index % len(TEXTS),
            card=index % len(TEXTS),
        )
        for index, completion in enumerate(completions)
    )
    Slot.objects.bulk_create(
        Slot(
            task=task,
            number=number,
            project=project,
            shuffle=assignment.random_source.randint(0, assignment.MAX_SHUFFLE),
        )
        for task in tasks
        for number in range(1, overlap + 1)
    )


def check(path):
    """What became of the rankings that the server acknowledged."""
    acknowledged = json.loads(Path(path).read_text())
    stored = list(Ranking.objects.values_list("client_id", flat=True))
    counted = Count("rankings", filter=Q(rankings__is_counted=True, rankings__is_current=True))
    per_task = list(Task.objects.annotate(counted=counted).values_list("counted", "overlap"))
    return {
        "lost": len(set(acknowledged) - set(stored)),
        "twice": len(stored) - len(set(stored)),
        "too_many": sum(count > overlap for count, overlap in per_task),
        "full": sum(count == overlap for count, overlap in per_task),
        "surplus": Ranking.objects.filter(is_counted=False).count(),
    }


def measure_queue(tasks):
    """Seconds of claims in a long queue: by someone new, by the one who has judged most, and of all that come back."""
    project = projects.create_project(name="Long queue", created_by=None, overlap=2)
    add_tasks(project, tasks // 2, 2)
    new, experienced, skipper = (accounts.create_user(name) for name in ("new", "experienced", "skipper"))
    for user in (new, experienced, skipper):
        projects.add_member(project, user)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    claims = {
        "someone new": [claim(project, new) for _claim in range(CLAIMS)],
        "after 1,000 rankings": after_many(project, experienced, 1_000, work),
        "after 300 skipped tasks": after_many(project, skipper, 300, skip),
    }
    queue = assignment.open_slots(project, experienced)[: assignment.CANDIDATES]
    return {"claims": claims, "plan": queue.explain()}


def claim(project, user, finish=None):
    started = time.perf_counter()
    lease = assignment.next_assignment(project, annotator=user)
    seconds = time.perf_counter() - started
    (finish or work)(lease, user)
    return seconds


def after_many(project, user, count, finish):
    for _ranking in range(count):
        claim(project, user, finish)
    return [claim(project, user, finish) for _claim in range(CLAIMS)]


def work(lease, user):
    order = [[key] for key in lease.presented_order]
    rankings.submit_ranking(lease, annotator=user, client_id=str(lease.pk), order=order)


def skip(lease, user):
    assignment.skip(lease, annotator=user)


if __name__ == "__main__":
    what, *values = sys.argv[1:]
    call = {"prepare": prepare, "check": check, "queue": measure_queue}[what]
    print(json.dumps(call(*(int(value) if value.isdecimal() else value for value in values))))
