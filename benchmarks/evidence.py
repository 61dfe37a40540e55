"""Does the loop work? The gold win rate of a policy that PPO trained on simulated rankings, with its KL.

    python benchmarks/evidence.py run --gold style --rankings 60 300 --seeds 1 2 3 4 --results evidence.jsonl
    python benchmarks/evidence.py run --gold bound --rankings 3000 --seeds 1 --variant second-round --results …
    python benchmarks/evidence.py table --results evidence.jsonl

Every cell reruns everything after the starter: which prompts are ranked, completions, simulated rankings, reward model,
PPO, in the preset's settings, each stage by `python -m training.engine` with the inputs that a round gives it; and the
draws on the eval prompts that the policy is compared by. The gold preference is asked here only; no stage sees it. The
rankings that measure accuracy are of other simulated people than those that trained. A stage that a guard stops, or
that fails, ends its cell, which then says so. With --folder the cells' files stay, and what is done there is
not done again. Beside PPO stand best-of-n under the same reward model and supervised fine-tuning on the winners.

variants:
    plain         one round, and SFT on the best completion of every ranking
    placebo       the rankings' orders are shuffled: nothing can be learned
    second-round  a round, then another with as many fresh rankings of the new policy's completions; beside it the
                  control, which spends the same steps again without fresh labels
"""

import argparse
import collections
import json
import statistics
import subprocess
from pathlib import Path

import evidence_cell  # its first lines find the project
import torch

from plumbline.demo import golds, starter


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("--gold", choices=sorted(golds.GOLDS), nargs="+", required=True)
    run.add_argument("--rankings", type=int, nargs="+", required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4])
    run.add_argument("--variant", choices=("plain", "placebo", "second-round"), default="plain")
    run.add_argument("--starter", type=Path, default=starter.STARTER)
    run.add_argument("--config", default="demo", help="preset or TOML file of the engine")
    run.add_argument("--threads", type=int, default=0)
    run.add_argument("--skip-ppo", action="store_true", help="the reward model's figures only")
    run.add_argument("--folder", type=Path, help="keeps every cell's files here and takes up where it ended")
    run.add_argument("--results", type=Path, required=True, help="a JSON line for each cell is appended")
    run.add_argument("overrides", nargs="*", help="engine settings, such as ppo.kl_coef=0.2")
    table = commands.add_parser("table")
    table.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "table":
        print_table([json.loads(line) for line in arguments.results.read_text().splitlines()])
        return
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    bench = evidence_cell.Bench(
        arguments.starter,
        config=arguments.config,
        threads=arguments.threads,
        overrides=arguments.overrides,
        folder=arguments.folder,
    )
    variant = " ".join([arguments.variant, *arguments.overrides])
    for gold in arguments.gold:
        for rankings in arguments.rankings:
            for seed in arguments.seeds:
                result = {"gold": gold, "rankings": rankings, "seed": seed, "variant": variant}
                try:
                    result |= bench.cell(
                        golds.GOLDS[gold], rankings, seed, arguments.variant, skip_ppo=arguments.skip_ppo
                    )
                except subprocess.CalledProcessError as error:
                    result["failed"] = f"the stage {error.cmd[3]} ended with code {error.returncode}"
                report(result, arguments.results)


def report(result, path):
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result), flush=True)


FIGURES = (
    "accuracy",
    "ceiling",
    "accuracy_bag_of_words",
    "best_of_4",
    "best_of_16",
    "win",
    "kl",
    "length",
    "distinct_2",
)
ROWS = {
    "": "",
    "winners_": " (SFT on winners)",
    "second_": " (second)",
    "control_": " (control)",
}  # prefix of a result's keys -> what the table adds


def print_table(results):
    """A row for each policy: means over seeds, with every seed's win rate and its 95% interval over prompts."""
    cells = collections.defaultdict(dict)  # (gold, rankings, variant) -> {seed: figures}; empty where a stage failed
    for result in results:
        for prefix, added in ROWS.items():
            row = {key.removeprefix(prefix): value for key, value in result.items() if key.startswith(prefix)}
            if not prefix or "win" in row:
                cell = cells[result["gold"], result["rankings"], result["variant"] + added]
                if result["seed"] in cell:
                    raise SystemExit(f"Seed {result['seed']} of {result['gold']} {result['rankings']} is there twice.")
                cell[result["seed"]] = {} if "failed" in result else row
    print("| gold | rankings | variant | seeds | " + " | ".join(FIGURES) + " | win of each seed |")
    print("|" + "---|" * (len(FIGURES) + 5))
    for (gold, rankings, variant), seeds in sorted(cells.items()):
        rows = [row for _seed, row in sorted(seeds.items()) if row]
        means = [statistics.mean(row[name] for row in rows) if rows and all(name in row for row in rows) else None
                 for name in FIGURES]  # fmt: skip
        shown = ["" if mean is None else f"{mean:.3f}" for mean in means]
        wins = ", ".join(
            f"{row['win']:.3f} ({row['win_low']:.3f} to {row['win_high']:.3f})" for row in rows if "win" in row
        )
        count = f"{len(rows)} of {len(seeds)}"
        print(f"| {gold} | {rankings} | {variant} | {count} | " + " | ".join(shown) + f" | {wins} |")
    for result in results:
        if "failed" in result:
            print(f"\n{result['gold']}, {result['rankings']} rankings, seed {result['seed']}: {result['failed']}.")


if __name__ == "__main__":
    main()
