"""The policy against the reference on prompts that nothing was trained on.

One draw of each for every prompt. The win rate is the scorer's word, so it says how well the policy pleases the
reward model, not people; people's word is the blind comparison of a round. Best-of-n of the reference under the same
scorer stands beside it: what the reward model can do without any training.
"""

import math
from dataclasses import dataclass

import numpy as np

from training.engine import checkpoint, data, rollout, rundir, sampling, scorer
from training.engine.config import require_inputs
from training.engine.distributed import Compute
from training.engine.progress import Progress
from training.engine.rollout import derive_seed

BOOTSTRAPS = 2000
SAMPLES_SHOWN = 16
REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as the policy reads it."""

    messages: list[dict]
    token_ids: list[int]


def train(config, run_dir, *, resume=None, should_stop=None):
    """Writes output/report.json on inputs.policy against inputs.ref_policy under inputs.reward_model.

    The name is that of every stage; nothing is trained. Each of the four steps is quick enough that a resumed
    evaluation starts anew.
    """
    settings, sampler, seed = config.evaluate, config.evaluate.sampling, config.run.seed
    require_inputs(config, "evaluate", "policy", "ref_policy", "prompts")
    if not settings.scorer:
        require_inputs(config, "evaluate", "reward_model")
    compute = Compute(config.run)
    progress = Progress(config, run_dir, stage="evaluate", total_steps=4, should_stop=should_stop)
    progress.start(device=compute.device)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.policy)
    policy = checkpoint.load_policy(config.inputs.policy, device=compute.device)
    ref_policy = checkpoint.load_policy(config.inputs.ref_policy, device=compute.device)
    judge = make_judge(config, compute.device)
    prompts = load_prompts(config, tokenizer, min(who.config.max_positions for who in (policy, ref_policy)), progress)

    def draw(who, purpose, copies=1):
        with compute.autocast():
            return sampling.generate(
                who,
                [prompt.token_ids for prompt in prompts],
                max_new_tokens=sampler.max_new_tokens,
                temperature=sampler.temperature,
                top_k=sampler.top_k,
                top_p=sampler.top_p,
                stop_token_ids=tokenizer.stop_ids,
                samples_per_prompt=copies,
                seed=derive_seed(seed, purpose),
                batch_size=sampler.batch_size,
            )

    def score(samples, copies=1):
        repeated = [prompt for prompt in prompts for _ in range(copies)]
        with compute.autocast():
            return judge.score(scorer.conversations(repeated, samples, tokenizer)).mean.double().cpu().numpy()

    samples, ref_samples = draw(policy, "policy"), draw(ref_policy, "reference")
    progress.end_step(1, resumable=False)
    scores, ref_scores = score(samples), score(ref_samples)
    progress.end_step(2, resumable=False)
    trajectories = rollout.collate(
        [prompt.token_ids for prompt in prompts],
        [sample.ids for sample in samples],
        pad_id=tokenizer.pad_id,
        device=compute.device,
    )
    with compute.autocast():
        # Of the whole distribution at temperature 1, as docs/metrics.md defines it, whatever the sampling above.
        kl = rollout.exact_kl_per_completion(policy, ref_policy, trajectories).cpu().numpy()
    progress.end_step(3, resumable=False)
    report = {
        "prompts": len(prompts),
        **compare(scores, ref_scores, prefix="win_rate", seed=derive_seed(seed, "bootstrap")),
        "kl_per_completion": float(kl.mean()),
        **describe(samples, scores, tokenizer, prefix=""),
        **describe(ref_samples, ref_scores, tokenizer, prefix="ref_"),
    }
    if settings.best_of:
        many = score(draw(ref_policy, "best_of", copies=settings.best_of), copies=settings.best_of)
        best = many.reshape(len(prompts), settings.best_of).max(axis=1)
        report |= {
            "best_of": settings.best_of,
            **compare(best, ref_scores, prefix="best_of_win_rate", seed=derive_seed(seed, "bootstrap")),
            "best_of_score_mean": float(best.mean()),
            "best_of_kl_bound": best_of_n_kl_bound(settings.best_of),
        }

    shown = slice(0, SAMPLES_SHOWN)
    progress.samples(
        4,
        [
            {
                "prompt": scorer.readable(prompt.messages),
                "completion": tokenizer.decode(sample.ids),
                "reference": tokenizer.decode(ref_sample.ids),
                "score": float(own),
                "reference_score": float(other),
            }
            for prompt, sample, ref_sample, own, other in zip(
                prompts[shown], samples[shown], ref_samples[shown], scores[shown], ref_scores[shown], strict=True
            )
        ],
    )
    progress.metrics(4, **report)
    progress.output.mkdir(exist_ok=True)
    rundir.write_json(progress.output / REPORT, report)
    progress.end_step(4, resumable=False)
    progress.finish(summary=report)
    return report


def load_prompts(config, tokenizer, max_positions, progress):
    """The prompts that leave room for a token; says how many do not. Raises DataError where none does."""
    settings = config.evaluate
    found = data.load_prompts(config.inputs.prompts, pool=settings.pool, limit=settings.prompts)
    prompts = [Prompt(messages=prompt.messages, token_ids=tokenizer.encode_prompt(prompt.messages)) for prompt in found]
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) < max_positions]
    if not fitting:
        raise data.DataError(
            f"{config.inputs.prompts}: every prompt is longer than the policies' {max_positions} tokens; "
            "add shorter ones."
        )
    if len(fitting) < len(prompts):
        progress.log(
            f"{len(prompts) - len(fitting)} of {len(prompts)} prompts are left out: they are longer than the policies' "
            f"{max_positions} tokens.",
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


def best_of_n_kl_bound(n):
    """Upper bound of the KL of best-of-n from what it draws from, nats (arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def make_judge(config, device):
    """The reward model, or a Python scorer that is registered in code."""
    if config.evaluate.scorer:
        return scorer.named(config.evaluate.scorer)
    return scorer.load(config.inputs.reward_model, policy_path=config.inputs.policy, device=device)
