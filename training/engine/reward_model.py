"""The reward model: learns from K-wise rankings which completion people prefer (arXiv:2203.02155, section 3.5).

It starts from the SFT policy's weights with a fresh scalar head, and is trained anew on all rankings. All comparisons
of a ranking stand in one batch element: K forward passes serve K(K-1)/2 comparisons, and a prompt weighs the same for
any K. At the end scores get mean 0 and deviation 1 over samples of the policy that it started from.

Departures from InstructGPT: several epochs are a setting (a small model on few rankings needs them), a ranking may
carry a weight, and a language-model loss on each ranking's best completions may stand beside the ranking loss.
"""

import time
from dataclasses import dataclass

import torch

from training.engine import checkpoint, data, losses, rollout, sampling, scorer
from training.engine.config import require_inputs
from training.engine.distributed import Compute
from training.engine.guards import require_finite
from training.engine.heads import RewardModel, ScalarHead
from training.engine.optim import build_optimizer, learning_rate, take_step
from training.engine.progress import Progress
from training.engine.rollout import derive_seed

BATCH_TOKENS_GPU = 65536  # padded tokens in one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparable:
    """A ranking as token ids."""

    prompt: list[int]
    completions: list[list[int]]  # K, stop token included
    order: list[list[int]]  # tie groups of indices into completions, best first
    weight: float
    group: str

    @property
    def rows(self):
        return [[*self.prompt, *completion] for completion in self.completions]


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains on inputs.rankings from inputs.policy; writes the reward model, or an ensemble of them, to output/.

    Members of an ensemble differ in their head and in the order of the rankings; they are trained one after another.
    Raises GuardStopped when a loss is not finite, Interrupted when asked to stop.
    """
    settings, seed = config.reward_model, config.run.seed
    require_inputs(config, "reward_model", "policy", "rankings")
    compute = Compute(config.run)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.policy)
    members = [fresh_member(config, number, compute.device) for number in range(settings.members)]
    optimizers = [build_optimizer(member, settings.optim) for member in members]
    comparables, notes = load_comparables(config, tokenizer, members[0].config.max_positions)
    training, validation = data.split_by_group(comparables, settings.validation_share, seed=seed)
    steps_per_epoch = -(-len(training) // settings.batch_size)
    steps_per_member = settings.epochs * steps_per_epoch

    progress = Progress(
        config, run_dir, stage="reward_model", total_steps=settings.members * steps_per_member, should_stop=should_stop
    )
    for number, (member, optimizer) in enumerate(zip(members, optimizers, strict=True)):
        progress.track(**{f"member_{number}": member, f"optimizer_{number}": optimizer})
    progress.start(resume, device=compute.device)
    for note in [*notes, f"{len(training)} rankings train and {len(validation)}, of other prompts, validate."]:
        progress.log(note)

    for step in progress.steps():
        began = time.perf_counter()
        number, member_step = divmod(step, steps_per_member)
        epoch, place = divmod(member_step, steps_per_epoch)
        order = data.shuffled(len(training), seed=derive_seed(seed, "order", number), epoch=epoch)
        batch = [training[index] for index in order[place * settings.batch_size :][: settings.batch_size]]

        readings = learn(members[number], batch, compute=compute, lm_coef=settings.lm_coef)
        require_finite(readings, step + 1, batch=place)
        rate = learning_rate(settings.optim, member_step, steps_per_member)
        norm = take_step(optimizers[number], settings.optim, rate=rate, what=f"step {step + 1}")
        readings |= {
            "learning_rate": rate,
            "grad_norm": norm,
            "epoch": (member_step + 1) / steps_per_epoch,
            "rankings_per_second": len(batch) / (time.perf_counter() - began),
        }
        is_epoch_end = place == steps_per_epoch - 1
        if validation and is_epoch_end:
            readings |= validate(members[number : number + 1], validation, compute=compute)
        progress.metrics(step + 1, always=is_epoch_end, **readings)
        progress.end_step(step + 1)

    reference, note = reference_rows(config, tokenizer, training, compute)
    progress.log(note)
    for member in members:
        normalise(member, reference, compute=compute)
    summary = {"rankings": len(training), "validation_rankings": len(validation)}
    if validation:
        summary |= validate(members, validation, compute=compute)
    kept = members if len(members) > 1 else members[0]
    digest = progress.write_output(checkpoint.save_reward_model, kept, tokenizer)
    progress.finish(digest=digest, summary=summary)


def learn(member, batch, *, compute, lm_coef):
    """Adds the gradient of this rank's share of a batch of Comparables to the member; the readings of the whole batch.

    loss: the ranking loss, each ranking by its weight; plus lm_coef times the language-model loss of the best ones.
    """
    weight, pairs = sum(item.weight for item in batch), len(compare(batch, "cpu").weight)
    best_tokens = sum(len(item.completions[index]) for item in batch for index in item.order[0])
    batch = compute.share(batch)
    readings = dict.fromkeys(("loss", "accuracy", "lm_loss") if lm_coef else ("loss", "accuracy"), 0.0)
    if not batch:
        return compute.total(readings)
    comparisons = compare(batch, member.device)
    prompts = [item.prompt for item in batch for _ in item.completions]
    completions = [completion for item in batch for completion in item.completions]
    best = {start + index for start, item in zip(starts(batch), batch, strict=True) for index in item.order[0]}
    passes = data.batches_by_length(
        [len(prompt) + len(completion) for prompt, completion in zip(prompts, completions, strict=True)],
        most_tokens=BATCH_TOKENS_GPU if compute.device.type == "cuda" else data.CPU_PASS_TOKENS,
    )
    scores, nats = [], []
    for rows in passes:
        trajectories = rollout.collate(
            [prompts[i] for i in rows], [completions[i] for i in rows], pad_id=0, device=compute.device
        )
        with compute.autocast():
            hidden = member.trunk.hidden(trajectories.input_ids, trajectories.attention_mask)
            scores.append(member.score_at_end(hidden, trajectories.attention_mask))
            if lm_coef:
                chosen = [place for place, row in enumerate(rows) if row in best]
                nats.append(best_nats(member, hidden, trajectories, chosen))
    flat = torch.cat(scores)
    flat = flat.index_select(0, torch.tensor([row for rows in passes for row in rows], device=flat.device).argsort())
    loss = losses.ranking_loss(flat, comparisons, weight)
    readings |= {"loss": loss.item(), "accuracy": accuracy(flat, comparisons) * len(comparisons.weight) / pairs}
    if lm_coef:
        lm_loss = sum(nats) / best_tokens
        readings["lm_loss"] = lm_loss.item()
        loss = loss + lm_coef * lm_loss
    loss.backward()
    return compute.total(readings)


def best_nats(member, hidden, trajectories, rows):
    """Negative log-likelihood of some rows' completions, nats, summed."""
    if not rows:
        return hidden.new_zeros(())
    rows = torch.tensor(rows, device=hidden.device)
    part = trajectories.take(rows)
    hidden = hidden.index_select(0, rows)[:, : part.input_ids.shape[1]]
    logits = member.trunk.project(rollout.at_actions(hidden, part))
    return losses.language_model_loss(rollout.action_logprobs(logits, part), part.action_mask, 1.0)


def validate(members, validation, *, compute):
    """Loss and accuracy of the members' mean score on held-out rankings."""
    rows = [row for item in validation for row in item.rows]
    with compute.autocast(), torch.no_grad():
        scores = torch.stack([scorer.score_rows(member, compute.share(rows)) for member in members]).mean(0)
    scores = compute.merge(scores, len(rows))
    comparisons = compare(validation, "cpu")
    loss = losses.ranking_loss(scores, comparisons, sum(item.weight for item in validation))
    return {"validation_loss": loss.item(), "validation_accuracy": accuracy(scores, comparisons)}


def accuracy(scores, comparisons):
    """Share of comparisons that the scores (N,) order as people did, equal scores half; each comparison counts once."""
    scores = scores.detach()
    margins = scores.index_select(0, comparisons.chosen) - scores.index_select(0, comparisons.rejected)
    return ((margins.sign() + 1) / 2).mean().item()


def compare(batch, device):
    """Comparisons of Comparables, whose completions stand one after another."""
    orders = [(len(item.completions), item.order) for item in batch]
    return losses.collate_comparisons(orders, [item.weight for item in batch], device=device)


def starts(batch):
    """Where each item's completions begin in the flat list."""
    found = [0]
    for item in batch:
        found.append(found[-1] + len(item.completions))
    return found[:-1]


def fresh_member(config, number, device):
    """A reward model with the policy's weights and a head of its own."""
    trunk = checkpoint.load_policy(config.inputs.policy, device=device)
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "head", number))
    head = ScalarHead(trunk.config.hidden_size, generator=generator).to(device)
    return RewardModel(trunk, head).to(device)


def load_comparables(config, tokenizer, max_positions):
    """(Comparables, sentences on what was left out). Raises DataError where nothing is left to learn from."""
    rankings = data.load_rankings(config.inputs.rankings)
    found, reasons = [], {"without weight": 0, "of ties only": 0, "too long for the policy": 0}
    for ranking in rankings:
        if not ranking.weight:
            reasons["without weight"] += 1
            continue
        if not ranking.has_comparisons:
            reasons["of ties only"] += 1
            continue
        item = Comparable(
            prompt=tokenizer.encode_prompt(ranking.prompt),
            completions=[tokenizer.encode_completion(completion) for completion in ranking.completions],
            order=ranking.order,
            weight=ranking.weight,
            group=ranking.group,
        )
        if max(map(len, item.rows)) > max_positions:
            reasons["too long for the policy"] += 1
            continue
        found.append(item)
    left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
    if not found:
        raise data.DataError(
            f"{config.inputs.rankings} has no ranking to learn from ({left_out}); collect more rankings."
        )
    return found, [f"Left out of {len(rankings)} rankings: {left_out}."] if left_out else []


def reference_rows(config, tokenizer, training, compute):
    """(token ids of samples to normalise on, a sentence on which they are).

    Samples of the starting policy for inputs.prompts, those of the pool reward or else sft or else all; without prompts
    the ranked completions stand in. Samples that were cut off are left out, for PPO does not ask for their score
    either; but where most were, all stand, for a few would tell little.
    """
    settings = config.reward_model
    ranked = [row for item in training for row in item.rows]
    if not config.inputs.prompts:
        return ranked, f"No prompts were given, so scores are normalised on the {len(ranked)} ranked completions."
    prompts = data.load_prompts(config.inputs.prompts)
    pool = next((pool for pool in ("reward", "sft") if any(prompt.pool == pool for prompt in prompts)), "")
    prompts = [prompt for prompt in prompts if not pool or prompt.pool == pool]
    order = data.shuffled(len(prompts), seed=derive_seed(config.run.seed, "normalise"), epoch=0)
    policy = checkpoint.load_policy(config.inputs.policy, device=compute.device)
    encoded = [tokenizer.encode_prompt(prompts[index].messages) for index in order[: settings.normalise_prompts]]
    # One that leaves no room to answer must not fail a run whose training is done.
    encoded = [ids for ids in encoded if len(ids) < policy.config.max_positions]
    if not encoded:
        return ranked, f"No prompt fits the policy, so scores are normalised on the {len(ranked)} ranked completions."
    with compute.autocast():
        samples = sampling.generate(
            policy,
            encoded,
            max_new_tokens=settings.normalise_new_tokens,
            stop_token_ids=tokenizer.stop_ids,
            seed=derive_seed(config.run.seed, "reference"),
        )
    rows = [[*prompt, *sample.ids] for prompt, sample in zip(encoded, samples, strict=True)]
    ended = [row for row, sample in zip(rows, samples, strict=True) if sample.finish_reason == "stop"]
    rows = ended if 2 * len(ended) >= max(len(rows), 4) else rows
    which = f"of the pool {pool}" if pool else "of the file"
    return rows, f"Scores are normalised on {len(rows)} samples of the starting policy for prompts {which}."


def normalise(member, rows, *, compute):
    """Scales and shifts a member's scores to mean 0 and deviation 1 over these token ids."""
    with compute.autocast(), torch.no_grad():
        scores = compute.merge(scorer.score_rows(member, compute.share(rows)), len(rows)).double()
    deviation = scores.std(correction=0).item()
    gain = 1 / deviation if deviation > 1e-6 else 1.0  # all alike: there is nothing to scale by
    member.fold(gain, -gain * scores.mean().item())
