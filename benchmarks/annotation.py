"""The annotation side under load, beside Label Studio: latency, rankings a second, errors, start and memory.

    python benchmarks/annotation.py load   [--database postgresql] [--label-studio DIR]
    python benchmarks/annotation.py faults [--database postgresql]
    python benchmarks/annotation.py queue  [--database postgresql]

load: annotators over HTTP, on loopback only, from one process beside the server: 64 who each submit every 20 s, then
16 and 64 who never pause. Each takes the next task (4 texts) and submits a ranking of it. DIR is a virtual environment
with Label Studio, made by `python -m venv DIR && DIR/bin/pip install label-studio==1.23.0`; it does the same task
through its own HTTP API, in the same run.
faults: 64 annotators who never pause, overlap 3, 2,000 tasks, while web processes are killed at random; every ranking
that was acknowledged must be there, once, and no task may have more than 3 that count.
queue: seconds that a claim takes with 100,000 open tasks. PostgreSQL is a server of its own in a temporary folder, with
its default durability.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys

from annotation_load import Acknowledged, run_load
from annotation_sides import LabelStudio, Plumbline
from product import ROOT, describe_machine, print_table

sys.path.insert(0, str(ROOT))

from tests.postgres import start_postgres

ANNOTATORS = 64
TASKS = 12_000  # more than one run can rank
CALM, FEW, MANY = "64, one in 20 s each", "16, never pausing", "64, never pausing"
FAULT_TASKS, FAULT_OVERLAP = 2_000, 3
SHORTEST_PEACE, LONGEST_PEACE = 2.0, 8.0  # seconds between two kills


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "faults", "queue"))
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--label-studio", metavar="DIR", help="a virtual environment with Label Studio")
    parser.add_argument("--seconds", type=float, default=20, help="length of each run with annotators who never pause")
    parser.add_argument("--tasks", type=int, default=100_000, help="open tasks of the queue")
    arguments = parser.parse_args()
    print(describe_machine())
    postgres = start_postgres(durable=True) if arguments.database == "postgresql" else None
    try:
        {"load": measure_load, "faults": measure_faults, "queue": measure_queue}[arguments.what](arguments, postgres)
    finally:
        if postgres:
            postgres.stop()


# Load


def measure_load(arguments, postgres):
    sides = [Plumbline(postgres)]
    if arguments.label_studio:
        sides.append(LabelStudio(arguments.label_studio, postgres))
    table = [("", *(side.name for side in sides), "wanted of Plumbline")]
    columns = [measure_side(side, arguments.seconds) for side in sides]
    wanted = {
        "start": "6 s",
        "memory of the web processes": "250 MB",
        f"{CALM}: next, p95": "150 ms",
        f"{CALM}: submit, p95": "150 ms",
        f"{FEW}: next, p95": "150 ms",
        f"{FEW}: submit, p95": "150 ms",
        f"{MANY}: next, p95": "400 ms",
        f"{MANY}: submit, p95": "400 ms",
        f"{MANY}: rankings/s": "20 times",
    }
    for what in columns[0]:
        table.append((what, *(column[what] for column in columns), wanted.get(what, "")))
    print_table(table)


def measure_side(side, seconds):
    """{what: figure} of one side."""
    with side:
        figures = {"start": f"{side.ready_seconds:.1f} s"}
        annotators = side.prepare(tasks=TASKS, annotators=ANNOTATORS, overlap=1)
        for name, count, pause, length in ((CALM, 64, 20, 30), (FEW, 16, 0, seconds), (MANY, 64, 0, seconds)):
            load = asyncio.run(run_load(annotators[:count], pause_seconds=pause, seconds=length))
            figures[f"{name}: rankings/s"] = f"{load.rankings_per_second:.1f}"
            figures[f"{name}: next, p95"] = milliseconds(load.next_seconds)
            figures[f"{name}: submit, p95"] = milliseconds(load.submit_seconds)
            figures[f"{name}: errors"] = str(load.errors)
            figures[f"{name}: generator's share of a core"] = f"{load.cpu_share:.0%}"
        figures["memory of the web processes"] = f"{side.web_bytes() / 1e6:.0f} MB"
    return figures


def milliseconds(times):
    if len(times) < 2:
        return "none"
    return f"{1000 * statistics.quantiles(times, n=20, method='inclusive')[-1]:,.0f} ms"


# Faults


def measure_faults(arguments, postgres):
    with Plumbline(postgres) as side:
        annotators = side.prepare(tasks=FAULT_TASKS, annotators=ANNOTATORS, overlap=FAULT_OVERLAP)
        acknowledged = Acknowledged()
        load, kills = asyncio.run(load_with_kills(side, annotators, acknowledged))
        found = side.check(acknowledged)
    print_table(
        [
            ("tasks, overlap", f"{FAULT_TASKS:,}, {FAULT_OVERLAP}", ""),
            ("web processes killed", str(kills), ""),
            ("calls that failed and were sent again", str(load.errors), ""),
            ("seconds", f"{load.seconds:.0f}", ""),
            ("rankings acknowledged", f"{len(acknowledged.rankings):,}", f"{FAULT_TASKS * FAULT_OVERLAP:,}"),
            ("of these lost", str(found["lost"]), "0"),
            ("stored twice", str(found["twice"]), "0"),
            (f"tasks with more than {FAULT_OVERLAP} that count", str(found["too_many"]), "0"),
            (f"tasks with {FAULT_OVERLAP} that count", f"{found['full']:,}", f"{FAULT_TASKS:,}"),
            ("kept as surplus", str(found["surplus"]), ""),
        ]
    )


async def load_with_kills(side, annotators, acknowledged):
    chance = random.Random(0)
    kills = 0

    async def disturb():
        nonlocal kills
        while True:
            await asyncio.sleep(chance.uniform(SHORTEST_PEACE, LONGEST_PEACE))
            kills += side.kill_web_process(chance)

    disturber = asyncio.create_task(disturb())
    load = await run_load(annotators, pause_seconds=0, seconds=300, acknowledged=acknowledged)
    disturber.cancel()
    return load, kills


# Queue


def measure_queue(arguments, postgres):
    with Plumbline(postgres) as side:
        program = [sys.executable, str(ROOT / "benchmarks" / "annotation_world.py"), "queue", str(arguments.tasks)]
        ended = subprocess.run(program, env=side.environ, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr)
    found = json.loads(ended.stdout.splitlines()[-1])
    rows = [
        (f"claim, {name}", milliseconds(times), "20 ms" if index == 0 else "")
        for index, (name, times) in enumerate(found["claims"].items())
    ]
    print_table([("open tasks", f"{arguments.tasks:,}", ""), *rows])
    print(found["plan"])


if __name__ == "__main__":
    main()
