"""Whole rounds on the demo, through the product: the seconds of every stage, the memory, and the blind win rate.

    python benchmarks/round.py [--rankings 300] [--rounds 1] [--gold style] [--set ppo.iterations=8]

Starts `plumbline up --demo` on empty data, lets simulated annotators rank over the HTTP API (as many answers as lack
are written first), starts a round over the API and follows it. Then the simulated annotators rank what the round
queued, blind comparisons included; a further round begins with the new policy promoted.
"""

import argparse
import json
import sys
import time
from datetime import datetime

from product import Product, describe_machine, print_table

PROJECT = "stories"
POLL_SECONDS = 0.5
TARGETS = {300: {"reward_model": 60, "ppo": 180, "all": 360}, 3000: {"all": 900}}
# Asks inside a process of the product, where alone the database is read.
BLIND_WIN_RATE = """
import json
from annotation.models import Project
from annotation.quality import win_rate
project = Project.objects.get(slug={project!r})
print(json.dumps(win_rate(project, new_digest={new!r}, old_digest={old!r}, simulated=True)))
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rankings", type=int, default=300, help="simulated rankings before each round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--gold", default="style", help="the annotators' hidden taste")
    parser.add_argument("--seed", type=int, default=0, help="other annotators with the same taste")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="engine settings of each round")
    arguments = parser.parse_args()
    overrides = dict(read_setting(text) for text in arguments.set)
    print(describe_machine(), flush=True)
    with Product() as product, product.api() as api:
        print(f"server ready after {product.ready_seconds:.1f} s")
        for _ in range(arguments.rounds):
            rank(product, arguments)
            round = follow_round(api, overrides)
            report_round(product, api, round, arguments.rankings)
            rank_what_is_new(product, api, round, arguments)
        print("\nlargest resident memory, summed over the processes of a kind")
        print_table([(kind, f"{size / 2**20:.0f} MiB", "") for kind, size in sorted(product.watch.peaks.items())])


def read_setting(text):
    """`key=value` with a JSON value, or a plain word."""
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def rank(product, arguments):
    started = time.monotonic()
    said = simulate(product, arguments, arguments.rankings)
    print(f"\n{arguments.rankings} rankings, with new answers where they lacked: {time.monotonic() - started:.1f} s")
    print(said, flush=True)


def simulate(product, arguments, rankings):
    options = ["--rankings", str(rankings), "--gold", arguments.gold, "--seed", str(arguments.seed), "--replenish"]
    return product.run("simulate", PROJECT, *options)


def follow_round(api, overrides):
    """Starts a round and returns it once it has ended; the benchmark ends where it failed."""
    round = call(api, "POST", f"projects/{PROJECT}/rounds/", json={"overrides": overrides})
    while round["state"] in ("preparing", "running"):
        time.sleep(POLL_SECONDS)
        round = call(api, "GET", f"projects/{PROJECT}/rounds/{round['number']}/")
    if round["state"] != "succeeded":
        sys.exit(f"Round {round['number']} {round['state']}: {round['message']}")
    return round


def call(api, method, path, **options):
    response = api.request(method, path, **options)
    if response.is_error:
        sys.exit(f"{method} {path} was answered {response.status_code}: {response.text}")
    return response.json()


def report_round(product, api, round, rankings):
    print(f"\nround {round['number']}: seconds by the clock, and of processor time in the engine")
    targets = TARGETS.get(rankings, {})
    runs = [call(api, "GET", f"runs/{run['id']}/") for run in round["runs"]]
    # The stages of a round follow one another, so the newest processes are this round's.
    used = list(product.watch.engine_seconds.values())[-len(runs) :]
    rows = [("snapshot", seconds(round["created_at"], runs[0]["created_at"]), 0, None)]
    for stage, run, (name, cpu_seconds) in zip(round["recipe"], runs, used, strict=True):
        assert name == run["stage"], f"{name} is not {run['stage']}: an engine was started again"
        name = name if stage["output"] != "base_completions" else f"{name}, old policy"
        rows.append((name, seconds(run["created_at"], run["finished_at"]), cpu_seconds, targets.get(run["stage"])))
    rows.append(("queue", seconds(runs[-1]["finished_at"], round["finished_at"]), 0, None))
    total = sum(cpu_seconds for _name, cpu_seconds in used)
    rows.append(("all in all", seconds(round["created_at"], round["finished_at"]), total, targets.get("all")))
    print_table(
        [
            (name, f"{clock:.1f} s", f"{cpu:.1f} s" if cpu else "", f"at most {most} s" if most else "")
            for name, clock, cpu, most in rows
        ]
    )
    figures = {name: value for name, value in round["result"].items() if isinstance(value, (int, float))}
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


def seconds(start, end):
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def rank_what_is_new(product, api, round, arguments):
    """Ranks the round's tasks, tells what they say of the new policy, and promotes it."""
    result = round["result"]
    print(simulate(product, arguments, result["tasks"] + result["comparisons"]).splitlines()[0])
    code = BLIND_WIN_RATE.format(project=PROJECT, new=result["policy"], old=result["base_policy"])
    blind = json.loads(product.run("shell", "--no-imports", "-c", code).splitlines()[-1])
    if blind["win_rate"] is None:
        print("no blind comparison was made")
    else:
        print(
            f"blind comparisons: the new policy's answer wins {blind['win_rate']:.1%} of {blind['pairs']} pairs "
            f"(95% interval {blind['low']:.1%} to {blind['high']:.1%})",
            flush=True,
        )
    found = call(api, "GET", f"projects/{PROJECT}/checkpoints/")
    new = next(one for one in found if one["digest"] == result["policy"])
    if new["state"] != "promoted":
        call(api, "POST", f"checkpoints/{new['id']}/promote/")


if __name__ == "__main__":
    main()
