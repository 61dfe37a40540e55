"""Does quality control work? Hostile annotators among simulated ones: who is flagged, and what the weights save.

    python benchmarks/quality.py flag                     # who is flagged, over many seeds; no web, no torch
    python benchmarks/quality.py watch                    # who is ever flagged, looked at again as rankings come in
    python benchmarks/quality.py reward --kinds reversed  # reward models trained on the starter's answers, on a CPU

A crowd of 40 (or --people), 20% of them hostile; each task goes to `overlap` people, drawn evenly. `mixed` has equal
parts of all kinds. False alarms: the share of honest annotators who are flagged.

reward trains the same reward model by `python -m training.engine` on: the honest annotators' rankings alone (clean),
everybody's (undefended), and everybody's with the weights that a snapshot carries (weights). Its figures are shares of
pairs of fresh answers to eval prompts: those that the scores order as the gold preference does and, in brackets, as
other honest annotators do.
"""

import argparse
import functools
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from annotation import reliability, suspicion  # noqa: E402
from annotation.agreement import Judgment, places_of  # noqa: E402
from plumbline.demo import annotators, golds, hostile, starter, world  # noqa: E402

K = 4
EVAL_PROMPTS = 300


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, people, kinds, seeds, rankings in (
        ("flag", 40, [*hostile.KINDS, "mixed"], 20, [30, 100]),
        ("watch", 40, ["none", "mixed"], 6, [100]),
        ("reward", 20, ["reversed"], 1, [30]),
    ):
        command = commands.add_parser(name)
        command.add_argument("--people", type=int, default=people)
        command.add_argument("--hostile", type=float, default=0.2, help="share of them")
        command.add_argument("--kinds", nargs="+", choices=[*hostile.KINDS, "mixed", "none"], default=kinds)
        command.add_argument("--gold", choices=sorted(golds.GOLDS), default="style")
        command.add_argument("--seeds", type=int, default=seeds)
        command.add_argument("--rankings", type=int, nargs="+", default=rankings)
        command.add_argument("--overlap", type=int, nargs="+", default=[3])
        command.add_argument("--gold-share", type=float, default=0.0, help="of the tasks, their answers known")
    reward = commands.choices["reward"]
    reward.add_argument("--starter", type=Path, default=starter.STARTER)
    reward.add_argument("--config", default="demo", help="preset or TOML file of the engine")
    reward.add_argument("--threads", type=int, default=1)
    reward.add_argument("overrides", nargs="*", help="engine settings, such as reward_model.epochs=3")
    arguments = parser.parse_args()
    {"flag": measure_flags, "watch": measure_looks, "reward": measure_reward}[arguments.command](arguments)


# The simulated crowd


def crowd_of(arguments, kind, seed):
    kinds = hostile.KINDS if kind == "mixed" else (kind,)
    share = 0.0 if kind == "none" else arguments.hostile
    return hostile.crowd(
        arguments.gold, count=arguments.people, hostile_share=share, kinds=kinds if share else hostile.KINDS, seed=seed
    )


def share_out(n_tasks, n_people, overlap, rng):
    """[the people of each task]: everybody gets as many, give or take one, and whom one meets is chance."""
    load = [0] * n_people
    found = []
    for _task in range(n_tasks):
        least = sorted(range(n_people), key=lambda person: (load[person], rng.random()))
        chosen = rng.sample(least[: overlap + 6], min(overlap, n_people))
        for person in chosen:
            load[person] += 1
        found.append(chosen)
    return found


def judge(annotator, number, task, prompt, texts, rng):
    """(Judgment, tie groups of indices into texts), the texts shown in an order of their own."""
    shown = list(range(len(texts)))
    rng.shuffle(shown)
    groups = annotator.rank(prompt, [texts[index] for index in shown])
    order = [[shown[place] for place in group] for group in groups]
    judgment = Judgment(
        task=task,
        annotator=number,
        places=places_of(order),
        presented=tuple(shown),
        lengths=dict(enumerate(map(len, texts))),
        seconds=annotator.seconds_on_task(prompt, texts),
    )
    return judgment, order


def collect(people, draws, overlap, gold_share, seed):
    """[(Judgment, tie groups, index of the draw)], known answers of the first tasks included."""
    rng = random.Random(f"collect {seed}")
    gold = people[0].gold
    found = []
    for task, chosen in enumerate(share_out(len(draws), len(people), overlap, rng)):
        prompt, texts = draws[task]
        found += [(*judge(people[number], number, task, prompt, texts, rng), task) for number in chosen]
        if rng.random() < gold_share:
            places = places_of(annotators.gold_order(gold, prompt, texts))
            found.append((Judgment(task=task, annotator=suspicion.GOLD, places=places), None, task))
    return found


# Who is flagged


def measure_flags(arguments):
    # The parser is most of the work, and the same stories come before many eyes.
    annotators.parse = functools.lru_cache(maxsize=100_000)(annotators.parse)
    titles = ["kind", "people a task", "rankings each", "flagged", "false alarms", "by", "weight honest", "hostile"]
    print(f"{arguments.people} annotators, {arguments.hostile:.0%} hostile, gold {arguments.gold}, "
          f"{arguments.seeds} seeds, known answers on {arguments.gold_share:.0%} of tasks")  # fmt: skip
    print("| " + " | ".join(titles) + " | seconds a crowd |")
    print("|" + "---|" * (len(titles) + 1))
    for overlap in arguments.overlap:
        for rankings in arguments.rankings:
            for kind in arguments.kinds:
                print(flag_row(arguments, kind, overlap, rankings), flush=True)


def flag_row(arguments, kind, overlap, rankings):
    hits, false, by = [], [], Counter()
    weights = {True: [], False: []}
    seconds = 0.0
    for seed in range(arguments.seeds):
        people = crowd_of(arguments, kind, seed)
        draws = annotators.corpus_draws(arguments.people * rankings // overlap, K, seed=2000 + seed)
        judgments = [row[0] for row in collect(people, draws, overlap, arguments.gold_share, seed)]
        began = time.process_time()
        suspects = suspicion.find_suspects(judgments)
        reliable = reliability.weights(reliability.fit_reliabilities(judgments, distrusted=suspects))
        seconds += time.process_time() - began
        for number, person in enumerate(people):
            is_hostile = isinstance(person, hostile.HostileAnnotator)
            (hits if is_hostile else false).append(number in suspects)
            weights[is_hostile].append(reliable.get(number, 1.0))
        by.update(reading.check for number in suspects for reading in suspects[number])
    share = f"{sum(hits)} of {len(hits)} ({statistics.fmean(hits):.1%})" if hits else "–"
    mean = {key: f"{statistics.fmean(values):.2f}" if values else "–" for key, values in weights.items()}
    return (
        f"| {kind} | {overlap} | {rankings} | {share} | {sum(false)} of {len(false)} ({statistics.fmean(false):.1%}) | "
        + ", ".join(f"{check} {count}" for check, count in by.most_common())
        + f" | {mean[False]} | {mean[True]} | {seconds / arguments.seeds:.2f} |"
    )


# Who is ever flagged


def measure_looks(arguments):
    """Rankings come in by chance, so that people share few tasks at first; a look whenever a quarter more are there."""
    annotators.parse = functools.lru_cache(maxsize=100_000)(annotators.parse)
    overlap, rankings = arguments.overlap[0], arguments.rankings[0]
    looks = [0.06 * 1.25**step for step in range(13)] + [1.0]
    print("| kind | rankings each | looks | hostile ever flagged | after rankings | false alarms, ever |")
    print("|" + "---|" * 6)
    for kind in arguments.kinds:
        ever = {True: [], False: []}
        for seed in range(arguments.seeds):
            people = crowd_of(arguments, kind, seed)
            draws = annotators.corpus_draws(arguments.people * rankings // overlap, K, seed=2000 + seed)
            judgments = [row[0] for row in collect(people, draws, overlap, arguments.gold_share, seed)]
            random.Random(f"arrival {seed}").shuffle(judgments)
            first = {}
            for look in looks:
                seen = judgments[: int(look * len(judgments))]
                for number in suspicion.find_suspects(seen):
                    first.setdefault(number, len(seen) / len(people))
            for number, person in enumerate(people):
                ever[isinstance(person, hostile.HostileAnnotator)].append(first.get(number))
        caught = [count for count in ever[True] if count is not None]
        false = sum(count is not None for count in ever[False])
        after = f"{statistics.median(caught):.0f}" if caught else "–"
        print(
            f"| {kind} | {rankings} | {len(looks)} | {len(caught)} of {len(ever[True])} | {after} | {false} of "
            f"{len(ever[False])} ({false / len(ever[False]):.1%}) |",
            flush=True,
        )


# What it does to a reward model


def measure_reward(arguments):
    # Here and not above: flags do without torch.
    import evidence_cell
    import torch

    torch.set_num_threads(arguments.threads)
    evidence_cell.EVAL_PROMPTS, evidence_cell.BEST_OF = EVAL_PROMPTS, (K,)
    settings = {"config": arguments.config, "threads": arguments.threads, "overrides": arguments.overrides}
    bench = evidence_cell.Bench(arguments.starter, **settings)
    print("| kind | seed | rankings | clean | undefended | weights | weight of hostile | flagged | false alarms |")
    print("|" + "---|" * 9)
    for kind in arguments.kinds:
        for seed in range(1, arguments.seeds + 1):
            print(reward_row(arguments, evidence_cell, bench, kind, seed), flush=True)


def reward_row(arguments, evidence_cell, bench, kind, seed):
    people = crowd_of(arguments, kind, seed)
    overlap, rankings = arguments.overlap[0], arguments.rankings[0]
    specs = world.prompts("reward")
    random.Random(f"prompts {seed}").shuffle(specs)
    specs = specs[: arguments.people * rankings // overlap]
    samples = bench.draw(bench.starter, specs, K, seed=seed)
    draws = [(spec.text, [bench.text(sample) for sample in row]) for spec, row in zip(specs, samples, strict=True)]
    rows = collect(people, draws, overlap, arguments.gold_share, seed)
    judgments = [row[0] for row in rows]
    suspects = suspicion.find_suspects(judgments)
    reliable = reliability.weights(reliability.fit_reliabilities(judgments, distrusted=suspects))
    enemies = {number for number, person in enumerate(people) if isinstance(person, hostile.HostileAnnotator)}
    by_person = {"clean": dict.fromkeys(enemies, 0.0), "undefended": {}, "weights": reliable}
    with tempfile.TemporaryDirectory(prefix="plumbline-quality-") as folder:
        work = evidence_cell.Work(Path(folder), bench, people[0].gold, seed)
        found = {}
        for name, weights in by_person.items():
            lines = [
                evidence_cell.ranking_row(f"{task}-{judgment.annotator}", specs[task], draws[task][1], order)
                | {"weight": weights.get(judgment.annotator, 1.0)}
                for judgment, order, task in rows
                if order is not None
            ]
            found[name] = work.train_reward_model(name, [line for line in lines if line["weight"]])
    shares = " | ".join(f"{row['accuracy_gold_order']:.1%} ({row['accuracy']:.1%})" for row in found.values())
    weight = statistics.fmean(reliable.get(number, 1.0) for number in enemies) if enemies else 1.0
    return (
        f"| {kind} | {seed} | {len(rows)} | {shares} | {weight:.2f} "
        f"| {len(enemies & suspects.keys())} of {len(enemies)} "
        f"| {len(suspects.keys() - enemies)} of {len(people) - len(enemies)} |"
    )


if __name__ == "__main__":
    main()
