"""Threads that race each other on a real database. Run by test_races.py as a program of its own, so that the settings
are those of production: PLUMBLINE_DATA_DIR and DATABASE_URL say where. Prints one JSON object."""

import io
import json
import os
import sys
import threading
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]
os.environ["DJANGO_SETTINGS_MODULE"] = "plumbline.settings"

import django  # noqa: E402

django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, connections  # noqa: E402
from django.db.models import Count, Q  # noqa: E402
from django.utils import timezone  # noqa: E402

from annotation import assignment, completions, projects, prompts, rankings  # noqa: E402
from annotation.models import Assignment, Prompt, PromptSet, Ranking, Slot, Task  # noqa: E402
from plumbline.models import User  # noqa: E402

ANNOTATORS, TASKS, OVERLAP = 6, 20, 2


def together(*functions):
    """Runs the functions at once, a thread and a connection each. Returns their results; an error is one too."""
    barrier = threading.Barrier(len(functions))
    results = [None] * len(functions)

    def run(index, function):
        try:
            connection.ensure_connection()
            barrier.wait(timeout=30)
            results[index] = function()
        except Exception as error:
            results[index] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return results


def errors_of(results):
    return [repr(result) for result in results if isinstance(result, Exception)]


def prepare():
    project = projects.create_project(name="Races", created_by=None)
    users = [User.objects.create(username=f"annotator{number}") for number in range(ANNOTATORS)]
    for user in users:
        projects.add_member(project, user)
    return project, users


def queue(project, count, *, overlap, name):
    lines = "\n".join(json.dumps({"prompt": f"{name} {number}", "pool": "reward"}) for number in range(count))
    prompt_set = prompts.import_prompts(project, name=name, file=io.BytesIO(lines.encode())).prompt_set
    for prompt in prompt_set.prompts.all():
        rows = [
            {
                "prompt": prompt,
                "message": {"role": "assistant", "content": text},
                "generator": {"kind": "import"},
            }
            for text in "abc"
        ]
        made = completions.add_completions(project, rows=rows)
        assignment.queue_task(project, prompt=prompt, completions=made, overlap=overlap)


def submit(lease, user, client_id):
    order = [[completion_id] for completion_id in lease.presented_order]
    return rankings.submit_ranking(lease, annotator=user, client_id=client_id, order=order)


def race_for_tasks(project, users):
    """Everybody ranks until nothing is left."""
    queue(project, TASKS, overlap=OVERLAP, name="tasks")

    def work(user):
        done = 0
        while (lease := assignment.next_assignment(project, annotator=user)) is not None:
            submit(lease, user, str(lease.pk))
            done += 1
        return done

    results = together(*(lambda user=user: work(user) for user in users))
    counted = Count("rankings", filter=Q(rankings__is_counted=True))
    return {
        "errors": errors_of(results),
        "rankings": Ranking.objects.count(),
        "wanted": TASKS * OVERLAP,
        "tasks_with_overlap": Task.objects.annotate(counted=counted).filter(counted=OVERLAP).count(),
        "tasks": TASKS,
        "slots_not_done": Slot.objects.exclude(state="done").count(),
    }


def race_of_one_person(project, users):
    """Six tabs of one person ask at once, then six hand in the same ranking at once."""
    queue(project, 8, overlap=1, name="tabs")
    user = users[0]
    leases = together(*(lambda: assignment.next_assignment(project, annotator=user) for _tab in range(6)))
    lease = leases[0]
    ahead = together(*(lambda: assignment.next_assignment(project, annotator=user, ahead=True) for _tab in range(6)))
    held = Assignment.objects.filter(annotator=user, state="leased").count()
    answers = together(*(lambda: submit(lease, user, "the same") for _tab in range(6)))
    for other in Assignment.objects.filter(annotator=user, state="leased"):
        assignment.release(other, annotator=user)
    return {
        "errors": errors_of(leases) + errors_of(ahead) + errors_of(answers),
        "leases": len({lease.pk for lease in leases}),
        "leases_ahead": len({lease.pk for lease in ahead}),
        "held": held,
        "created": sum(answer[1] for answer in answers),
        "rows": Ranking.objects.filter(annotator=user, client_id="the same").count(),
    }


def race_with_the_clock(project, users):
    """Leases end while their owners hand in, and others take the slots over."""
    queue(project, 10, overlap=1, name="clock")
    before = set(Task.objects.filter(rankings__isnull=False).values_list("pk", flat=True))
    leases = [(user, assignment.next_assignment(project, annotator=user)) for user in users[:3]]
    later = timezone.now() + timedelta(days=1)

    def take_over(user):
        lease = assignment.next_assignment(project, annotator=user)
        return submit(lease, user, f"over {lease.pk}") if lease else None

    results = together(
        *(lambda user=user, lease=lease: submit(lease, user, f"late {lease.pk}") for user, lease in leases),
        lambda: assignment.expire_leases(now=later),
        *(lambda user=user: take_over(user) for user in users[3:]),
    )
    counted = Count("rankings", filter=Q(rankings__is_counted=True))
    late = Ranking.objects.filter(client_id__startswith="late ")
    return {
        "errors": errors_of(results),
        "late_kept": late.count(),
        "counted_twice": Task.objects.exclude(pk__in=before).annotate(counted=counted).filter(counted__gt=1).count(),
        "surplus_told_apart": late.filter(is_counted=False).count()
        == Assignment.objects.filter(state="surplus").count(),
    }


def race_of_imports(project):
    content = "\n".join(json.dumps({"prompt": f"import {number}"}) for number in range(700)).encode()
    results = together(
        *(lambda: prompts.import_prompts(project, name="same", file=io.BytesIO(content)) for _try in range(4))
    )
    reports = [result for result in results if not isinstance(result, Exception)]
    return {
        "errors": errors_of(results),
        "imports": sum(not report.already_imported for report in reports),
        "sets": PromptSet.objects.filter(name="same").count(),
        "prompts": Prompt.objects.filter(prompt_set__name="same").count(),
    }


def main():
    call_command("migrate", verbosity=0)
    project, users = prepare()
    print(
        json.dumps(
            {
                "vendor": connection.vendor,
                "tasks": race_for_tasks(project, users),
                "one_person": race_of_one_person(project, users),
                "clock": race_with_the_clock(project, users),
                "imports": race_of_imports(project),
            }
        )
    )


if __name__ == "__main__":
    main()
