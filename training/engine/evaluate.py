"""Measures what its inputs allow, on data that nothing was trained on. Nothing is trained here.

| given | measured |
|---|---|
| documents, demonstrations | perplexity of the policy (and of the reference) |
| rankings | how the scorer's order agrees with people's: accuracy, calibration, liking for length, its surest errors |
| prompts | the policy against the reference: win rate, KL, length, diversity, best-of-n of the reference |
| prompts and frontier | the same for several policies: the KL frontier |

One draw for every prompt. The win rate is the scorer's word, so it says how well the policy pleases the reward model,
not people; people's word is the blind comparison of a round. Best-of-n of the reference under the same scorer stands
beside it: what the reward model can do without any training.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from training.engine import calibration, checkpoint, data, frontier, losses, rollout, rundir, sampling, scorer
from training.engine.config import ConfigError, require_inputs
from training.engine.distributed import Compute
from training.engine.frontier import best_of_n_kl_bound
from training.engine.progress import Progress
from training.engine.rollout import derive_seed

BOOTSTRAPS = 2000
SAMPLES_SHOWN = 16
HELD_OUT_POOL = "eval"  # the one pool that no stage trains on
PASS_TOKENS_GPU = 8192  # padded, in one pass for perplexity or KL
REPORT, ERRORS = "report.json", "confident_errors.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as the policy reads it."""

    messages: list[dict]
    token_ids: list[int]
    pool: str


def train(config, run_dir, *, resume=None, should_stop=None):
    """Writes output/report.json on inputs.policy, inputs.ref_policy and inputs.reward_model.

    The name is that of every stage; nothing is trained. Each part is quick enough that a resumed evaluation starts
    anew. Raises ConfigError where the inputs allow no part.
    """
    compute = Compute(config.run)
    parts = []
    if config.inputs.documents or config.inputs.demonstrations:
        parts.append(lambda: measure_perplexity(config, compute))
    if config.inputs.rankings:
        parts.append(lambda: examine_scorer(config, compute, progress))
    if config.inputs.prompts or not parts:
        contest = Contest(config, compute)
        parts += [lambda: contest.load(progress), contest.draw, contest.score, contest.measure_kl]
        if config.evaluate.best_of:
            parts.append(contest.draw_best_of)
        if config.inputs.frontier:
            parts.append(lambda: contest.trace_frontier(progress))
    progress = Progress(config, run_dir, stage="evaluate", total_steps=len(parts), should_stop=should_stop)
    progress.start(device=compute.device)
    progress.output.mkdir(exist_ok=True)
    report = {}
    for step, part in enumerate(parts):
        if step:
            progress.end_step(step, resumable=False)
        report |= part()
    if config.inputs.prompts:
        progress.samples(len(parts), contest.shown())
    progress.metrics(len(parts), **report)
    rundir.write_json(progress.output / REPORT, report)
    progress.end_step(len(parts), resumable=False)
    progress.finish(summary=report)
    return report


def measure_perplexity(config, compute):
    """Perplexity per token on documents, and on demonstrations' completions."""
    require_inputs(config, "evaluate", "policy")
    inputs, report = config.inputs, {}
    tokenizer = checkpoint.load_tokenizer_of(inputs.policy)
    for prefix, path in (("", inputs.policy), ("ref_", inputs.ref_policy)):
        if not path:
            continue
        policy = checkpoint.load_policy(path, device=compute.device)
        most = policy.config.max_positions
        texts = {
            "documents": lambda most=most: document_pairs(inputs.documents, tokenizer, most),
            "completions": lambda most=most: demonstration_pairs(inputs.demonstrations, tokenizer, most),
        }
        for name, source in (("documents", inputs.documents), ("completions", inputs.demonstrations)):
            if source:
                pairs = within(texts[name](), config.evaluate.perplexity_tokens)
                report[f"{prefix}{name}_perplexity"] = math.exp(mean_nats(policy, pairs, compute, tokenizer.pad_id))
    return report


def document_pairs(path, tokenizer, most):
    """(first token, all others) of each document; one longer than the policy's positions becomes several."""
    for document in data.load_documents(path):
        ids = tokenizer.encode(document) if isinstance(document, str) else tokenizer.apply_chat_template(document)
        ids = [*ids, tokenizer.eos_id]
        for start in range(0, len(ids), most):
            if len(ids) > start + 1:
                yield ids[start : start + 1], ids[start + 1 : start + most]


def demonstration_pairs(path, tokenizer, most):
    """(prompt, completion) of each demonstration that the policy's positions hold."""
    for item in (item for file in data.split_paths(path) for item in data.load_demonstrations(file)):
        prompt, completion = tokenizer.encode_prompt(item.prompt), tokenizer.encode_completion(item.completion)
        if len(prompt) + len(completion) <= most:
            yield prompt, completion


def within(pairs, tokens):
    """The first pairs that hold so many tokens together (at least one pair); 0 takes all. Raises DataError."""
    taken, count = [], 0
    for prompt, completion in pairs:
        taken.append((prompt, completion))
        count += len(completion)
        if tokens and count >= tokens:
            break
    if not taken:
        raise data.DataError(
            "No text has two tokens and is short enough for the policy: no perplexity can be measured."
        )
    return taken


@torch.no_grad()
def mean_nats(policy, pairs, compute, pad_id):
    """Mean -log p per token of the second of each pair, after the first, nats."""
    nats = 0.0
    for rows in data.batches_by_length([len(a) + len(b) for a, b in pairs], most_tokens=pass_tokens(compute)):
        prompts, completions = zip(*(pairs[row] for row in rows), strict=True)
        part = rollout.collate(prompts, completions, pad_id=pad_id, device=compute.device)
        with compute.autocast():
            logits = rollout.action_logits(policy, part)
        nats -= rollout.action_logprobs(logits, part).double().sum().item()
    return nats / sum(len(completion) for _, completion in pairs)


def pass_tokens(compute):
    """Padded tokens in one pass over a policy, as suits the device."""
    return PASS_TOKENS_GPU if compute.device.type == "cuda" else data.CPU_PASS_TOKENS


def examine_scorer(config, compute, progress):
    """How the scorer's order agrees with rankings of any purpose; writes its surest errors."""
    inputs = config.inputs
    require_inputs(config, "evaluate", "policy" if config.evaluate.scorer else "reward_model")
    judge = make_judge(config, compute.device)
    tokenizer = checkpoint.load_tokenizer_of(inputs.policy or inputs.reward_model)
    found = [item for item in data.load_rankings(inputs.rankings, measuring=True) if item.has_comparisons]
    rankings, talks, lengths = [], [], []
    for item in found:
        prompt = tokenizer.encode_prompt(item.prompt)
        completions = [tokenizer.encode_completion(completion) for completion in item.completions]
        own = [
            scorer.Conversation(messages=[*item.prompt, *completion], token_ids=[*prompt, *ids])
            for completion, ids in zip(item.completions, completions, strict=True)
        ]
        if not all(scorer.reads(judge, talk) for talk in own):
            continue
        rankings.append(item)
        lengths += map(len, completions)
        talks += own
    if not rankings:
        raise data.DataError(f"{inputs.rankings} has no ranking with a comparison that is short enough to be scored.")
    if len(rankings) < len(found):
        progress.log(
            f"{len(found) - len(rankings)} of {len(found)} rankings are left out: they are longer than the reward "
            f"model's {judge.max_positions} tokens.",
            level="warning",
        )
    with compute.autocast():
        scores = judge.score(talks).mean.cpu()
    counts = [len(item.completions) for item in rankings]
    comparisons = losses.collate_comparisons([(len(item.completions), item.order) for item in rankings])
    margins = calibration.margins(scores, comparisons)
    scale = calibration.fit_scale(margins)
    texts = [(scorer.readable(talk.messages[:-1]), scorer.message_text(talk.messages[-1])) for talk in talks]
    rundir.write_json(progress.output / ERRORS, calibration.describe_errors(margins, comparisons, texts))
    return {
        "rankings": len(rankings),
        "accuracy": calibration.accuracy(margins),
        "ece": calibration.expected_calibration_error(margins * scale),
        "ece_scale": scale,
        "length_correlation": calibration.length_correlation(scores, lengths, counts),
    }


class Contest:
    """The policy, and others, against the reference on the same prompts."""

    def __init__(self, config, compute):
        self.config, self.compute = config, compute
        self.settings, self.sampler, self.seed = config.evaluate, config.evaluate.sampling, config.run.seed
        require_inputs(config, "evaluate", "policy", "ref_policy", "prompts")
        if not self.settings.scorer:
            require_inputs(config, "evaluate", "reward_model")

    def load(self, progress):
        inputs, device = self.config.inputs, self.compute.device
        self.tokenizer = checkpoint.load_tokenizer_of(inputs.policy)
        self.policy = checkpoint.load_policy(inputs.policy, device=device)
        self.ref_policy = checkpoint.load_policy(inputs.ref_policy, device=device)
        self.judge = make_judge(self.config, device)
        policies = (self.policy, self.ref_policy)
        self.most = min(scorer.max_positions(self.judge), *(who.config.max_positions for who in policies))
        self.prompts = load_prompts(self.config, self.tokenizer, self.most, progress)
        trainable = sum(prompt.pool != HELD_OUT_POOL for prompt in self.prompts)
        if trainable:
            progress.log(
                f"{trainable} of {len(self.prompts)} prompts are not of the pool {HELD_OUT_POOL}, so training may have "
                "seen them and the figures may flatter the policy; add prompts of that pool.",
                level="warning",
            )
        return {"prompts": len(self.prompts), "trainable_share": trainable / len(self.prompts)}

    def draw(self):
        self.samples = self._draw(self.policy, "policy")
        self.ref_samples = self._draw(self.ref_policy, "reference")
        return {}

    def score(self):
        self.scores, self.ref_scores = self._score(self.samples), self._score(self.ref_samples)
        return {
            **self._against_reference(self.scores, "win_rate"),
            **describe(self.samples, self.scores, self.tokenizer, prefix=""),
            **describe(self.ref_samples, self.ref_scores, self.tokenizer, prefix="ref_"),
        }

    def measure_kl(self):
        self.kl = self._kl(self.policy, self.samples)
        return {"kl_per_completion": self.kl}

    def draw_best_of(self):
        n = self.settings.best_of
        self.many = self._score(self._draw(self.ref_policy, "best_of", copies=n), copies=n).reshape(-1, n)
        best = self.many.max(axis=1)
        return {
            "best_of": n,
            **self._against_reference(best, "best_of_win_rate"),
            "best_of_score_mean": float(best.mean()),
            "best_of_kl_bound": best_of_n_kl_bound(n),
        }

    def trace_frontier(self, progress):
        """Writes the table and the picture of inputs.frontier, the policy and best-of-n."""
        points = [self._point(name_of(self.config.inputs.policy), "policy", self.scores, self.kl)]
        for number, path in enumerate(data.split_paths(self.config.inputs.frontier)):
            policy = checkpoint.load_policy(path, device=self.compute.device)
            if policy.config.vocab_size != self.policy.config.vocab_size:
                raise ConfigError(f"{path} has another vocabulary than inputs.policy; a frontier needs one for all.")
            longest = max(len(prompt.token_ids) for prompt in self.prompts)
            if policy.config.max_positions <= longest:
                raise ConfigError(
                    f"{path} reads {policy.config.max_positions} tokens and the longest prompt has {longest}; leave "
                    "the policy or the long prompts out."
                )
            samples = self._draw(policy, f"frontier {number}")
            points.append(self._point(name_of(path), "policy", self._score(samples), self._kl(policy, samples)))
        for n in (2**power for power in range(1, max(self.settings.best_of, 1).bit_length())):
            points.append(self._point(f"best of {n}", "best_of", self.many[:, :n].max(axis=1), best_of_n_kl_bound(n)))
        points.sort(key=lambda point: point["kl_per_completion"])
        frontier.write_table(points, progress.output)
        print(frontier.readable_table(points))
        if not frontier.draw(points, progress.output):
            progress.log(
                "The frontier is a table only, for matplotlib is not installed: pip install 'plumbline[plot]'."
            )
        return {"frontier_points": len(points)}

    def shown(self):
        """Samples as rundir describes them."""
        places = range(min(SAMPLES_SHOWN, len(self.prompts)))
        return [
            {
                "prompt": scorer.readable(self.prompts[place].messages),
                "completion": self.tokenizer.decode(self.samples[place].ids),
                "reference": self.tokenizer.decode(self.ref_samples[place].ids),
                "score": float(self.scores[place]),
                "reference_score": float(self.ref_scores[place]),
            }
            for place in places
        ]

    def _point(self, name, kind, scores, kl):
        won = self._against_reference(scores, "win_rate")
        return {"name": name, "kind": kind, "kl_per_completion": kl, "score_mean": float(scores.mean()), **won}

    def _draw(self, who, purpose, copies=1):
        with self.compute.autocast():
            return sampling.generate(
                who,
                [prompt.token_ids for prompt in self.prompts],
                max_new_tokens=self.sampler.max_new_tokens,
                temperature=self.sampler.temperature,
                top_k=self.sampler.top_k,
                top_p=self.sampler.top_p,
                stop_token_ids=self.tokenizer.stop_ids,
                samples_per_prompt=copies,
                seed=derive_seed(self.seed, purpose),
                batch_size=self.sampler.batch_size,
                max_positions=self.most,
            )

    def _score(self, samples, copies=1):
        repeated = [prompt for prompt in self.prompts for _ in range(copies)]
        with self.compute.autocast():
            scores = self.judge.score(scorer.conversations(repeated, samples, self.tokenizer))
        return scores.mean.double().cpu().numpy()

    def _kl(self, policy, samples):
        """Mean KL of the policy from the reference on its own samples, of the whole distribution at temperature 1, as
        docs/metrics.md defines it, whatever the sampling."""
        trajectories = rollout.collate(
            [prompt.token_ids for prompt in self.prompts],
            [sample.ids for sample in samples],
            pad_id=self.tokenizer.pad_id,
            device=self.compute.device,
        )
        with self.compute.autocast():
            kl = rollout.exact_kl_per_completion(
                policy, self.ref_policy, trajectories, most_tokens=pass_tokens(self.compute)
            )
        return float(kl.mean())

    def _against_reference(self, scores, prefix):
        return compare(scores, self.ref_scores, prefix=prefix, seed=derive_seed(self.seed, "bootstrap"))


def name_of(path):
    """What people call a policy's directory: a run's output by its run."""
    path = Path(path)
    return path.parent.name if path.name == rundir.OUTPUT else path.name


def load_prompts(config, tokenizer, max_positions, progress):
    """The prompts that leave room for a token; says how many do not. Raises DataError where none does."""
    settings = config.evaluate
    found = data.load_prompts(config.inputs.prompts, pool=settings.pool, limit=settings.prompts)
    prompts = [
        Prompt(messages=prompt.messages, token_ids=tokenizer.encode_prompt(prompt.messages), pool=prompt.pool)
        for prompt in found
    ]
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) < max_positions]
    if not fitting:
        raise data.DataError(
            f"{config.inputs.prompts}: every prompt is longer than the {max_positions} tokens that all networks read; "
            "add shorter ones."
        )
    if len(fitting) < len(prompts):
        progress.log(
            f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are left out: they are longer than the "
            f"{max_positions} tokens that all networks read.",
            level="warning",
        )
    return fitting


def compare(scores, ref_scores, *, prefix, seed):
    """Win rate against the reference with its 95% interval, bootstrapped by prompt."""
    won = wins(scores, ref_scores)
    low, high = bootstrap_interval(won, seed=seed)
    return {prefix: float(won.mean()), f"{prefix}_low": low, f"{prefix}_high": high}


def describe(samples, scores, tokenizer, *, prefix):
    """Score, length, ends and diversity of one policy's samples."""
    bodies = [[token for token in sample.ids if token not in tokenizer.stop_ids] for sample in samples]
    return {
        f"{prefix}score_mean": float(np.mean(scores)),
        f"{prefix}length_mean": float(np.mean([len(sample.ids) for sample in samples])),
        f"{prefix}eos_rate": float(np.mean([sample.finish_reason == "stop" for sample in samples])),
        f"{prefix}distinct_2": distinct(bodies, 2),
    }


def bootstrap_interval(values, *, seed, share=0.95):
    """(low, high) of the mean of `values`, (N,), over prompts drawn again with replacement."""
    generator = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def wins(scores, ref_scores):
    """(N,) 1 where the first is higher, 0 where lower, a half where equal."""
    difference = np.asarray(scores, dtype=np.float64) - np.asarray(ref_scores, dtype=np.float64)
    return 0.5 * (np.sign(difference) + 1)


def distinct(completions, n=2):
    """Different n-grams of tokens over all n-grams, pooled over completions; 0 where there is none."""
    grams = [tuple(ids[i : i + n]) for ids in completions for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def make_judge(config, device):
    """The reward model, or a Python scorer that is registered in code."""
    if config.evaluate.scorer:
        return scorer.named("evaluate.scorer", config.evaluate.scorer)
    return scorer.load(config.inputs.reward_model, policy_path=config.inputs.policy or None, device=device)
