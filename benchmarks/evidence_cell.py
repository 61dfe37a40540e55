"""One cell of the evidence: the figures of one gold, one number of rankings and one seed.

Everything after the starter is drawn and trained anew: which prompts are ranked, completions, simulated rankings,
reward model, policy; each stage by `python -m training.engine` with the inputs that a round gives it.
"""

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

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from plumbline.demo import bag_of_words, starter, world  # noqa: E402
from plumbline.demo.annotators import SimulatedAnnotator, comparisons  # noqa: E402
from training.engine import checkpoint, data, evaluate, rollout, sampling, scorer  # noqa: E402

EVAL_PROMPTS = 1000
K = 4
BEST_OF = (4, 16)
ANNOTATORS = 8
MAX_NEW_TOKENS = 72
WINNERS = {"sft.epochs": 6, "sft.batch_size": 16}  # SFT on winners reads the rankings as often as the reward model does


class Bench:
    """The starter and its draws on the eval prompts; the engine's settings of every cell.

    config: preset or TOML file; overrides: settings that differ from it, such as "ppo.kl_coef=0.2".
    folder: keeps every cell's files, and what is done there is not done again; None keeps nothing.
    """

    def __init__(self, starter_path, *, config="demo", threads=0, overrides=(), folder=None):
        self.starter_path, self.config, self.threads = starter_path, config, threads
        self.overrides, self.folder = list(overrides), folder
        self.starter = checkpoint.load_policy(starter_path)
        self.starter_digest = hashlib.sha256((starter_path / "manifest.json").read_bytes()).hexdigest()
        self.tokenizer = checkpoint.load_tokenizer_of(starter_path)
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
        if self.folder is None:
            return draw()
        path = self.folder / f"draws-{name}.pickle"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
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

    def cell(self, gold, n, seed, variant="plain", *, skip_ppo=False):
        """All figures of one gold, number of rankings and seed; evidence.py says what the variants are."""
        if self.folder is None:
            with tempfile.TemporaryDirectory(prefix="plumbline-evidence-") as folder:
                return self.measure(Work(Path(folder), self, gold, seed), n, variant, skip_ppo=skip_ppo)
        folder = self.folder / f"{gold.name}-{n}-{seed}{'-shuffled' if variant == 'placebo' else ''}"
        folder.mkdir(parents=True, exist_ok=True)
        return self.measure(Work(folder, self, gold, seed), n, variant, skip_ppo=skip_ppo)

    def measure(self, work, n, variant, *, skip_ppo):
        rankings = work.rank(self.ranked(work.seed, n), offset=0, shuffled=variant == "placebo")
        result = work.train_reward_model("rm1", rankings)
        if skip_ppo:
            return result
        result |= work.train_policy("ppo1", policy=self.starter_path, reward_model="rm1")
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
        return [setting for setting in self.bench.overrides if not setting.startswith(others)]

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
        inputs = {"policy": self.bench.starter_path, "rankings": path, "prompts": self.prompts_path}
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
            "ref_policy": self.bench.starter_path,
            "reward_model": self.output(reward_model),
            "prompts": self.prompts_path,
        }
        return self.stage("ppo", name, inputs, lambda: self.judge_policy(name, reward_model))

    def imitate_winners(self, name, rankings):
        """Supervised fine-tuning of the starter on the best completion of each ranking, and what became of it."""
        path = self.folder / f"{name}.jsonl"
        starter.write_lines(path, map(winner, rankings))
        inputs = {"policy": self.bench.starter_path, "demonstrations": path}
        return self.stage("sft", name, inputs, lambda: self.judge_policy(name, "rm1"))

    def judge_policy(self, name, reward_model):
        """One draw a prompt on the eval pool against the starter's."""
        trained = checkpoint.load_policy(self.output(name))
        draws = self.bench.draw(trained, self.bench.eval_prompts, 1, seed=rollout.derive_seed(self.seed, "judged"))
        rivals = self.bench.rivals(self.seed)
        golden, rival_golden = self.gold_scores(draws)[:, 0], self.gold_scores(rivals)[:, 0]
        won = evaluate.wins(golden, rival_golden)
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
            "gold_mean": float(golden.mean()),
            "gold_mean_of_swapped_prompts": float(swapped.mean()),
            "gold_mean_of_starter": float(rival_golden.mean()),
            "length": statistics.mean(map(len, bodies)),
            "length_of_starter": statistics.mean(map(len, rival_bodies)),
            "distinct_2": evaluate.distinct(bodies),
            "distinct_2_of_starter": evaluate.distinct(rival_bodies),
        }

    def load_scorer(self, name):
        """A reward model that scores the sampled token ids themselves, as PPO does."""
        return scorer.load(self.output(name), policy_path=self.bench.starter_path)

    def score(self, reward_model, draws):
        """(prompts, copies) scores of samples under a reward model."""
        prompts = [
            evaluate.Prompt(messages=messages_of(spec), token_ids=self.bench.prompt_ids(spec), pool=spec.pool)
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
        run_dir = self.run_dir(name)
        settings = {"run.seed": self.seed, "run.threads": self.bench.threads} | (WINNERS if stage == "sft" else {})
        asked = ["--config", self.bench.config, *(f"{key}={value}" for key, value in settings.items())]
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
