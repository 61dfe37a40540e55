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
import functools
import hashlib
import json
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from plumbline.demo import bag_of_words, golds, starter, world  # noqa: E402
from plumbline.demo.annotators import SimulatedAnnotator, comparisons  # noqa: E402
from training.engine import checkpoint, data, evaluate, rollout, sampling, scorer  # noqa: E402

EVAL_PROMPTS = 1000
K = 4
BEST_OF = (4, 16)
ANNOTATORS = 8
MAX_NEW_TOKENS = 72
WINNERS = {"sft.epochs": 6, "sft.batch_size": 16}  # SFT on winners reads the rankings as often as the reward model does


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
    bench = Bench(arguments)
    for gold in arguments.gold:
        for rankings in arguments.rankings:
            for seed in arguments.seeds:
                result = {"gold": gold, "rankings": rankings, "seed": seed, "variant": bench.variant}
                try:
                    result |= bench.cell(golds.GOLDS[gold], rankings, seed)
                except subprocess.CalledProcessError as error:
                    result["failed"] = f"the stage {error.cmd[3]} ended with code {error.returncode}"
                report(result, arguments.results)


def report(result, path):
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result), flush=True)


class Bench:
    """The starter and its draws on the eval prompts."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.variant = " ".join([arguments.variant, *arguments.overrides])
        self.starter = checkpoint.load_policy(arguments.starter)
        self.starter_digest = hashlib.sha256((arguments.starter / "manifest.json").read_bytes()).hexdigest()
        self.tokenizer = checkpoint.load_tokenizer_of(arguments.starter)
        self.eval_prompts = world.prompts("eval")[:EVAL_PROMPTS]
        # What best-of-n picks from and accuracy is measured on: the most costly draws, made once for all cells.
        self.eval_draws = self.kept_draws("eval", lambda: self.draw(
            self.starter, self.eval_prompts, max(BEST_OF), seed=rollout.derive_seed("best of")))  # fmt: skip

    @functools.cache  # noqa: B019 (one bench a process)
    def rivals(self, seed):
        """One draw a prompt to compare with, apart from those that best-of-n picks from."""
        return self.draw(self.starter, self.eval_prompts, 1, seed=rollout.derive_seed(seed, "rivals"))

    @functools.cache  # noqa: B019
    def ranked(self, seed, n):
        """What the starter answers to n prompts of the pool reward: the same for every gold."""
        specs, sample_seed = ranked_prompts(seed, 0, n), rollout.derive_seed(seed, "ranked", 0)
        return self.kept_draws(f"{seed}-{n}", lambda: self.draw(self.starter, specs, K, seed=sample_seed))

    def kept_draws(self, name, draw):
        """What draw() returns, or returned when it was last called in this folder."""
        folder = self.arguments.folder
        if folder is None:
            return draw()
        path = folder / f"draws-{name}.pickle"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pickle.dumps(draw()))
        return pickle.loads(path.read_bytes())

    def draw(self, policy, specs, copies, *, seed):
        """[[Sample, ...], ...]: `copies` a prompt, at temperature 1."""
        ids = [self.prompt_ids(spec) for spec in specs]
        samples = sampling.generate(
            policy,
            ids,
            max_new_tokens=MAX_NEW_TOKENS,
            stop_token_ids=self.tokenizer.stop_ids,
            samples_per_prompt=copies,
            seed=seed,
        )
        return [samples[start : start + copies] for start in range(0, len(samples), copies)]

    def prompt_ids(self, spec):
        return self.tokenizer.encode_prompt(messages_of(spec))

    def text(self, sample):
        return self.tokenizer.decode([token for token in sample.ids if token not in self.tokenizer.stop_ids])

    def cell(self, gold, n, seed):
        """All figures of one gold, number of rankings and seed."""
        kept = self.arguments.folder
        if kept is None:
            with tempfile.TemporaryDirectory(prefix="plumbline-evidence-") as folder:
                return self.measure(Work(Path(folder), self, gold, seed), n)
        shuffled = "-shuffled" if self.arguments.variant == "placebo" else ""
        folder = kept / f"{gold.name}-{n}-{seed}{shuffled}"
        folder.mkdir(parents=True, exist_ok=True)
        return self.measure(Work(folder, self, gold, seed), n)

    def measure(self, work, n):
        variant, first = self.arguments.variant, self.arguments.starter
        rankings = work.rank(self.ranked(work.seed, n), offset=0, shuffled=variant == "placebo")
        result = work.train_reward_model("rm1", rankings)
        if self.arguments.skip_ppo:
            return result
        result |= work.train_policy("ppo1", policy=first, reward_model="rm1")
        if variant == "plain":
            result |= prefixed("winners_", work.imitate_winners("sft1", rankings))
        if variant == "second-round":
            policy = work.output("ppo1")
            specs = ranked_prompts(work.seed, n, n)
            seed = rollout.derive_seed(work.seed, "ranked", n)
            fresh = work.rank(self.draw(checkpoint.load_policy(policy), specs, K, seed=seed), offset=n)
            second = work.train_reward_model("rm2", rankings + fresh)
            second |= work.train_policy("ppo2", policy=policy, reward_model="rm2")
            result |= prefixed("second_", second)
            result |= prefixed("control_", work.train_policy("ppo2c", policy=policy, reward_model="rm1"))
        return result


def ranked_prompts(seed, offset, n):
    """n prompts of the pool reward in a seed's order, from `offset` on, over and over."""
    pool = world.prompts("reward")
    random.Random(f"prompts {seed}").shuffle(pool)
    return [pool[(offset + i) % len(pool)] for i in range(n)]


def prefixed(prefix, figures):
    return {prefix + name: value for name, value in figures.items()}


class Work:
    """One cell's files."""

    def __init__(self, folder, bench, gold, seed):
        self.folder, self.bench, self.gold, self.seed = folder, bench, gold, seed
        self.annotators = people(gold, seed * 1000)
        self.strangers = people(gold, seed * 1000 + 500)
        self.prompts_path = folder / "prompts.jsonl"
        specs = [spec for pool in ("reward", "ppo", "eval") for spec in world.prompts(pool)]
        starter.write_lines(self.prompts_path, map(starter.as_prompt_row, specs))

    def output(self, name):
        return self.run_dir(name) / "output"

    def run_dir(self, name):
        return self.folder / " ".join([name, *self.overrides(name)])

    def overrides(self, name):
        """The settings that differ from the preset's, but for those of stages that this one does not depend on."""
        others = {"rm1": ("ppo.", "sft."), "sft1": "ppo."}.get(name, "sft.")
        return [setting for setting in self.bench.arguments.overrides if not setting.startswith(others)]

    def rank(self, draws, *, offset, shuffled=False):
        """Rankings in the native format of fresh draws, K a prompt."""
        specs = ranked_prompts(self.seed, offset, len(draws))
        shuffle = random.Random(f"shown {self.seed} {offset}")
        rows = []
        for i, (spec, samples) in enumerate(zip(specs, draws, strict=True)):
            texts = [self.bench.text(sample) for sample in samples]
            order = judge(self.annotators[i % ANNOTATORS], spec.text, texts, shuffle)
            if shuffled:
                names = [index for group in order for index in group]
                shuffle.shuffle(names)
                order = [[name] for name in names]
            rows.append(ranking_row(f"{offset}-{i}", spec, texts, order))
        return rows

    def train_reward_model(self, name, rankings):
        """Trains on the rankings; accuracy on 1,000 fresh simulated rankings of eval prompts, and best-of-n."""
        path = self.folder / f"{name}.jsonl"
        starter.write_lines(path, rankings)
        inputs = {"policy": self.bench.arguments.starter, "rankings": path, "prompts": self.prompts_path}
        return self.stage("reward_model", name, inputs, lambda: self.judge_reward_model(name, rankings))

    def judge_reward_model(self, name, rankings):
        scores = self.score(self.load_scorer(name), self.bench.eval_draws)
        golden = self.gold_scores(self.bench.eval_draws)
        shuffle = random.Random(f"fresh {self.seed}")
        labels = [
            comparisons(
                judge(
                    self.strangers[i % ANNOTATORS],
                    spec.text,
                    [self.bench.text(sample) for sample in draws[:K]],
                    shuffle,
                )
            )
            for i, (spec, draws) in enumerate(zip(self.bench.eval_prompts, self.bench.eval_draws, strict=True))
        ]
        result = {
            "accuracy": agreement(scores, labels),
            "ceiling": agreement(golden, labels),
            "accuracy_gold_order": agreement(scores, gold_pairs(golden)),
            "accuracy_bag_of_words": self.bag_of_words(rankings, labels),
        }
        rivals = self.gold_scores(self.bench.rivals(self.seed))[:, 0]
        for n in BEST_OF:
            best = golden[np.arange(len(golden)), scores[:, :n].argmax(1)]
            result[f"best_of_{n}"] = float(evaluate.wins(best, rivals).mean())
        return result

    def bag_of_words(self, rankings, labels):
        pairs = []
        for row in rankings:
            texts = {item["id"]: item["messages"][0]["content"] for item in row["completions"]}
            prompt = row["prompt"][0]["content"]
            pairs += [(prompt, texts[better], texts[worse]) for better, worse in comparisons(row["ranking"])]
        model = bag_of_words.fit(pairs)
        scores = np.array([[model.score(self.bench.text(s)) for s in draws[:K]] for draws in self.bench.eval_draws])
        return agreement(scores, labels)

    def train_policy(self, name, *, policy, reward_model):
        """PPO, and what became of the policy."""
        inputs = {
            "policy": policy,
            "ref_policy": self.bench.arguments.starter,
            "reward_model": self.output(reward_model),
            "prompts": self.prompts_path,
        }
        return self.stage("ppo", name, inputs, lambda: self.judge_policy(name, reward_model))

    def imitate_winners(self, name, rankings):
        """Supervised fine-tuning of the starter on the best completion of each ranking, and what became of it."""
        path = self.folder / f"{name}.jsonl"
        starter.write_lines(path, map(winner, rankings))
        inputs = {"policy": self.bench.arguments.starter, "demonstrations": path}
        return self.stage("sft", name, inputs, lambda: self.judge_policy(name, "rm1"))

    def judge_policy(self, name, reward_model):
        """One draw a prompt on the eval pool against the starter's."""
        trained = checkpoint.load_policy(self.output(name))
        draws = self.bench.draw(trained, self.bench.eval_prompts, 1, seed=rollout.derive_seed(self.seed, "judged"))
        rivals = self.bench.rivals(self.seed)
        won = evaluate.wins(self.gold_scores(draws)[:, 0], self.gold_scores(rivals)[:, 0])
        swapped = self.gold_scores(draws[1:] + draws[:1])[:, 0]  # each completion under the next prompt
        low, high = evaluate.bootstrap_interval(won, seed=self.seed)
        bodies = [[token for token in row[0].ids if token not in self.bench.tokenizer.stop_ids] for row in draws]
        rival_bodies = [[token for token in row[0].ids if token not in self.bench.tokenizer.stop_ids] for row in rivals]
        trajectories = rollout.collate(
            [self.bench.prompt_ids(spec) for spec in self.bench.eval_prompts],
            [row[0].ids for row in draws],
            pad_id=self.bench.tokenizer.pad_id,
        )
        return {
            "win": float(won.mean()),
            "win_low": low,
            "win_high": high,
            "kl": float(rollout.exact_kl_per_completion(trained, self.bench.starter, trajectories).mean()),
            "proxy": float(self.score(self.load_scorer(reward_model), draws).mean()),
            "gold_mean": float(self.gold_scores(draws).mean()),
            "gold_mean_of_swapped_prompts": float(swapped.mean()),
            "gold_mean_of_starter": float(self.gold_scores(rivals).mean()),
            "length": statistics.mean(map(len, bodies)),
            "length_of_starter": statistics.mean(map(len, rival_bodies)),
            "distinct_2": evaluate.distinct(bodies),
            "distinct_2_of_starter": evaluate.distinct(rival_bodies),
        }

    def load_scorer(self, name):
        """A reward model that scores the sampled token ids themselves, as PPO does."""
        return scorer.load(self.output(name), policy_path=self.bench.arguments.starter)

    def score(self, reward_model, draws):
        """(prompts, copies) scores of samples under a reward model."""
        prompts = [
            evaluate.Prompt(messages=messages_of(spec), token_ids=self.bench.prompt_ids(spec))
            for spec, row in zip(self.bench.eval_prompts, draws, strict=True)
            for _ in row
        ]
        samples = [sample for row in draws for sample in row]
        scores = reward_model.score(scorer.conversations(prompts, samples, self.bench.tokenizer)).mean.numpy()
        return scores.reshape(len(draws), -1)

    def gold_scores(self, draws):
        """(prompts, copies) of the gold."""
        return np.array(
            [
                [self.gold.score(spec.text, self.bench.text(sample)) for sample in row]
                for spec, row in zip(self.bench.eval_prompts, draws, strict=True)
            ]
        )

    def stage(self, stage, name, inputs, measure):
        """Runs one stage, unless it is done already with the same settings: its figures and the seconds it took."""
        run_dir, arguments = self.run_dir(name), self.bench.arguments
        settings = {"run.seed": self.seed, "run.threads": arguments.threads} | (WINNERS if stage == "sft" else {})
        asked = ["--config", arguments.config, *(f"{key}={value}" for key, value in settings.items())]
        asked += self.overrides(name)
        done = run_dir / "figures.json"
        if not done.exists():
            shutil.rmtree(run_dir, ignore_errors=True)
            command = [sys.executable, "-m", "training.engine", stage, "--run-dir", str(run_dir), *asked]
            began = time.perf_counter()
            subprocess.run([*command, *(f"inputs.{key}={json.dumps(str(path))}" for key, path in inputs.items())],
                           cwd=ROOT, check=True)  # fmt: skip
            seconds = round(time.perf_counter() - began, 1)
            figures = {f"seconds_{stage}": seconds} | measure()
            done.write_text(json.dumps({"asked": asked, "starter": self.bench.starter_digest, "figures": figures}))
        kept = json.loads(done.read_text())
        if (kept["asked"], kept["starter"]) != (asked, self.bench.starter_digest):
            raise SystemExit(f"{run_dir} holds another run: {kept['asked']}, not {asked}. Name another --folder.")
        return kept["figures"]


def people(gold, first):
    """Simulated annotators, numbered from `first`."""
    return [SimulatedAnnotator(first + i, gold) for i in range(ANNOTATORS)]


def judge(annotator, prompt, texts, shuffle):
    """One annotator's tie groups of indices into texts, which are shown in an order of their own."""
    shown = list(range(len(texts)))
    shuffle.shuffle(shown)
    groups = annotator.rank(prompt, [texts[index] for index in shown])
    return [[shown[place] for place in group] for group in groups]


def messages_of(spec):
    return [{"role": "user", "content": spec.text}]


def ranking_row(name, spec, texts, order):
    """A line of the native format."""
    prompt = messages_of(spec)
    return {
        "schema": "plumbline.ranking/1",
        "id": name,
        "version": 1,
        "task": name,
        "purpose": "train",
        "pool": spec.pool,
        "group": spec.group,
        "source": "simulated",
        "prompt_digest": data.digest_of(prompt),
        "prompt": prompt,
        "completions": [
            {"id": f"c{index}", "messages": [{"role": "assistant", "content": text}]}
            for index, text in enumerate(texts)
        ],
        "ranking": [[f"c{index}" for index in group] for group in order],
        "unranked": [],
    }


def winner(row):
    """A line of demonstrations: the ranking's prompt and one of its best completions."""
    best = row["ranking"][0][0]
    answer = next(item["messages"] for item in row["completions"] if item["id"] == best)
    return {"messages": row["prompt"] + answer}


def agreement(scores, labels):
    """Share of labelled (better, worse) pairs that the scores order alike, equal scores half."""
    points = [
        0.5 * (np.sign(row[better] - row[worse]) + 1)
        for row, pairs in zip(scores, labels, strict=True)
        for better, worse in pairs
    ]
    return float(np.mean(points))


def gold_pairs(golden):
    return [
        [(better, worse) for better in range(K) for worse in range(K) if row[better] > row[worse]] for row in golden
    ]


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
