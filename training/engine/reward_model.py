"""The reward model: learns from K-wise rankings which completion people prefer (arXiv:2203.02155, section 3.5).

It starts from the SFT policy's weights with a fresh scalar head, and is trained anew on all rankings. All comparisons
of a ranking stand in one batch element: K forward passes serve K(K-1)/2 comparisons, and a prompt weighs the same for
any K. At the end scores (of an ensemble, their mean) get mean 0 and deviation 1 over samples of the policy that it
started from.

Departures from InstructGPT: several epochs are a setting (a small model on few rankings needs them), a ranking may
carry a weight, and a language-model loss on each ranking's best completions may stand beside the ranking loss.
"""

import time
from dataclasses import dataclass

import torch
from torch.nn import functional

from training.engine import calibration, checkpoint, data, lora, losses, packing, sampling, scorer
from training.engine.config import require_inputs
from training.engine.distributed import Compute
from training.engine.guards import require_finite, require_signal
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

    @property
    def best(self):
        """The completions of the first tie group."""
        return [self.completions[index] for index in self.order[0]]

    @property
    def tokens(self):
        """How many are computed: the prompt counts once."""
        return len(self.prompt) + sum(map(len, self.completions))


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains on inputs.rankings from inputs.policy; writes the reward model, or an ensemble of them, to output/.

    Members of an ensemble differ in their head and in the order of the rankings; they are trained one after another.
    Raises GuardStopped when a loss is not finite or nothing was learned, Interrupted when asked to stop.
    """
    settings, seed = config.reward_model, config.run.seed
    require_inputs(config, "reward_model", "policy", "rankings")
    compute = Compute(config.run)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.policy)
    members = [fresh_member(config, number) for number in range(settings.members)]
    turn = Turn(members, settings.optim, compute.device)
    comparables, notes = load_comparables(config, tokenizer, members[0].config.max_positions)
    training, validation = data.split_by_group(comparables, settings.validation_share, seed=seed)
    steps_per_epoch = -(-len(training) // settings.batch_size)
    steps_per_member = steps_per_epoch * max(settings.epochs, -(-settings.min_steps // steps_per_epoch))

    progress = Progress(
        config, run_dir, stage="reward_model", total_steps=settings.members * steps_per_member, should_stop=should_stop
    )
    progress.track(**{f"member_{number}": lora.tracked(member) for number, member in enumerate(members)}, turn=turn)
    progress.start(resume, device=compute.device)
    for note in [*notes, f"{len(training)} rankings train and {len(validation)}, of other prompts, validate."]:
        progress.log(note)

    for step in progress.steps():
        began = time.perf_counter()
        number, member_step = divmod(step, steps_per_member)
        epoch, place = divmod(member_step, steps_per_epoch)
        order = data.shuffled(len(training), seed=derive_seed(seed, "order", number), epoch=epoch)
        batch = [training[index] for index in order[place * settings.batch_size :][: settings.batch_size]]

        turn.take(number)
        readings = learn(turn.member, batch, compute=compute, lm_coef=settings.lm_coef)
        require_finite(readings, step + 1, batch=place)
        rate = learning_rate(settings.optim, member_step, steps_per_member)
        norm = take_step(turn.optimizer, settings.optim, rate=rate, what=f"step {step + 1}")
        readings |= {
            "learning_rate": rate,
            "grad_norm": norm,
            "epoch": (member_step + 1) / steps_per_epoch,
            "rankings_per_second": len(batch) / (time.perf_counter() - began),
        }
        is_epoch_end = place == steps_per_epoch - 1
        if validation and is_epoch_end:
            readings |= validate(score_all([turn.member], validation, compute), validation)
        progress.metrics(step + 1, always=is_epoch_end, **readings)
        progress.end_step(step + 1)

    turn.end()  # the samples are drawn by one more network
    summary, errors = {"rankings": len(training), "validation_rankings": len(validation)}, []
    if validation:
        scores = score_all(members, validation, compute)
        held_out, comparisons = validate(scores, validation), len(compare(validation, "cpu").weight)
        require_signal(held_out["validation_accuracy"], comparisons, bound=settings.guard_min_accuracy)
        errors = surest_errors(scores, validation, tokenizer)
    reference, note, level = reference_rows(config, tokenizer, training, compute)
    progress.log(note, level=level)
    normalise(members, reference, compute=compute)
    if validation:
        summary |= validate(score_all(members, validation, compute), validation)
        # How sure it is has a meaning in the scale of the ranking loss only, which normalising takes away.
        summary["validation_ece"] = held_out["validation_ece"]
    progress.write_report({**summary, "confident_errors": errors})
    kept = members if len(members) > 1 else members[0]
    digest = progress.write_output(lora.save_reward_model, kept, tokenizer)
    progress.finish(digest=digest, summary=summary)


class Turn:
    """Whose turn it is to be trained: that member, and the one optimizer, which is its own."""

    def __init__(self, members, optim, device):
        self.members, self.optim, self.device = members, optim, device
        self.number = self.optimizer = None

    @property
    def member(self):
        return self.members[self.number]

    def take(self, number):
        """Makes it this member's turn, with a fresh optimizer where another one's ends."""
        if number != self.number:
            self.end()
            self.number, self.optimizer = number, build_optimizer(bring(self.members, number, self.device), self.optim)

    def end(self):
        """Lets optimizer and device go."""
        self.number = self.optimizer = None
        for member in self.members:
            member.cpu()

    def state_dict(self):
        return {"number": self.number, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.take(state["number"])
        self.optimizer.load_state_dict(state["optimizer"])


def bring(members, number, device):
    """This member on the device, all others off it: an ensemble takes the memory of one."""
    for other in (member for place, member in enumerate(members) if place != number):
        other.cpu()
    return members[number].to(device)


def learn(member, batch, *, compute, lm_coef):
    """Adds the gradient of this rank's share of a batch of Comparables to the member; the readings of the whole batch.

    loss: the ranking loss, each ranking by its weight; plus lm_coef times the language-model loss of the best ones.
    """
    weight, pairs = sum(item.weight for item in batch), len(compare(batch, "cpu").weight)
    best_tokens = sum(len(completion) for item in batch for completion in item.best)
    readings = dict.fromkeys(("loss", "accuracy", "lm_loss") if lm_coef else ("loss", "accuracy"), 0.0)
    shared = compute.share(batch)
    most = data.pass_tokens(compute, on_gpu=BATCH_TOKENS_GPU)
    for rows in data.batches_by_length([item.tokens for item in shared], most_tokens=most):
        part = [shared[index] for index in rows]
        comparisons = compare(part, member.device)
        with compute.autocast():
            scores, nats = read(member, part, wants_nats=bool(lm_coef))
        loss = losses.ranking_loss(scores, comparisons, weight)
        right = calibration.accuracy(calibration.margins(scores, comparisons))
        readings["loss"] += loss.item()
        readings["accuracy"] += right * len(comparisons.weight) / pairs
        if lm_coef:
            readings["lm_loss"] += nats.item() / best_tokens
            loss = loss + lm_coef * nats / best_tokens
        # Pass by pass, or what all of them keep for the gradient would stand in memory at once.
        loss.backward()
    return compute.total(readings)


def read(member, batch, *, wants_nats):
    """(scores of all completions of Comparables, negative log-likelihood of their best ones or None, nats, summed).

    A ranking's prompt is computed once for its K completions.
    """
    layout = packing.Layout(
        [len(item.prompt) for item in batch],
        [list(map(len, item.completions)) for item in batch],
        device=member.device,
    )
    parts = [part for item in batch for part in (item.prompt, *item.completions)]
    tokens = packing.flatten(parts, device=member.device)
    ends = layout.ends()
    if not wants_nats:
        return member.values_packed(tokens, layout, ends), None
    # Tokens of the best completions, and where each is decided: the first on the prompt's last token.
    learned = [
        (start, start + len(item.completions[index]), layout.starts[row] + len(item.prompt) - 1)
        for row, item in enumerate(batch)
        for index in item.order[0]
        for start in [layout.branch_starts[row][index]]
    ]
    targets = torch.tensor([place for start, end, _ in learned for place in range(start, end)])
    places = torch.tensor([place for start, end, last in learned for place in (last, *range(start, end - 1))])
    wanted, at = torch.cat([ends.cpu(), places]).unique(return_inverse=True)
    wanted, at, targets = (x.to(member.device) for x in (wanted, at, targets))
    hidden = member.trunk.hidden_packed(tokens, layout, wanted)
    scores = member.head(hidden.index_select(0, at[: len(ends)])).float() + member.score_shift
    logits = member.trunk.project(hidden.index_select(0, at[len(ends) :]))
    return scores, functional.cross_entropy(logits.float(), tokens.index_select(0, targets), reduction="sum")


def validate(scores, validation):
    """What scores of held-out rankings are worth, as score_all gives them."""
    comparisons = compare(validation, "cpu")
    margins = calibration.margins(scores, comparisons)
    lengths = [len(completion) for item in validation for completion in item.completions]
    counts = [len(item.completions) for item in validation]
    loss = losses.ranking_loss(scores, comparisons, sum(item.weight for item in validation))
    return {
        "validation_loss": loss.item(),
        "validation_accuracy": calibration.accuracy(margins),
        "validation_ece": calibration.expected_calibration_error(margins),
        "validation_length_correlation": calibration.length_correlation(scores, lengths, counts),
    }


def score_all(members, items, compute):
    """(N,) the members' mean scores of the items' completions, one item after another."""
    with compute.autocast(), torch.no_grad():
        shared = compute.share(items)
        prompts, completions = [item.prompt for item in shared], [item.completions for item in shared]
        scores = [
            scorer.score_rows(bring(members, number, compute.device), prompts, completions)
            for number in range(len(members))
        ]
        scores = torch.stack(scores).mean(0)
    scores = [part.tolist() for part in scores.split([len(item.completions) for item in shared])]
    return torch.tensor([score for part in compute.gather(scores, len(items)) for score in part])


def surest_errors(scores, validation, tokenizer):
    """The held-out comparisons that the scores most surely order against people, to be read."""
    comparisons = compare(validation, "cpu")
    margins = calibration.margins(scores, comparisons)
    texts = [
        (tokenizer.decode(item.prompt), tokenizer.decode(completion))
        for item in validation
        for completion in item.completions
    ]
    return calibration.describe_errors(margins, comparisons, texts)


def compare(batch, device):
    """Comparisons of Comparables, whose completions stand one after another."""
    orders = [(len(item.completions), item.order) for item in batch]
    return losses.collate_comparisons(orders, [item.weight for item in batch], device=device)


def fresh_member(config, number):
    """A reward model with the policy's weights and a head of its own."""
    trunk = checkpoint.load_policy(config.inputs.policy)
    generator = torch.Generator().manual_seed(derive_seed(config.run.seed, "head", number))
    member = RewardModel(trunk, ScalarHead(trunk.config.hidden_size, generator=generator))
    seed = derive_seed(config.run.seed, "member", number)
    return lora.attach(member, config.lora, base=config.inputs.policy, seed=seed)


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
    """(token ids of samples to normalise on, a sentence on which they are, its level).

    Samples of the starting policy as PPO draws them, for inputs.prompts, those of the pool reward or else sft or else
    all; without prompts the ranked completions stand in. Samples that were cut off are left out, for PPO does not ask
    for their score either; but where most were, all stand, for a few would tell little.
    """
    settings = config.reward_model
    ranked = [row for item in training for row in item.rows]
    on_ranked = f"scores are normalised on the {len(ranked)} ranked completions."
    if not config.inputs.prompts:
        return ranked, f"No prompts were given, so {on_ranked}", "info"
    prompts = data.load_prompts(config.inputs.prompts)
    pool = next((pool for pool in ("reward", "sft") if any(prompt.pool == pool for prompt in prompts)), "")
    prompts = [prompt for prompt in prompts if not pool or prompt.pool == pool]
    order = data.shuffled(len(prompts), seed=derive_seed(config.run.seed, "normalise"), epoch=0)
    policy = compute.freeze(checkpoint.load_policy(config.inputs.policy, device=compute.device))
    encoded = [tokenizer.encode_prompt(prompts[index].messages) for index in order[: settings.normalise_prompts]]
    # One that leaves no room to answer must not fail a run whose training is done.
    encoded = [ids for ids in encoded if len(ids) < policy.config.max_positions]
    if not encoded:
        return ranked, f"No prompt fits the policy, so {on_ranked}", "warning"
    most = settings.normalise_new_tokens or config.ppo.max_new_tokens
    with compute.autocast():
        samples = sampling.generate(
            policy,
            encoded,
            max_new_tokens=most,
            temperature=config.ppo.temperature,
            stop_token_ids=tokenizer.stop_ids,
            seed=derive_seed(config.run.seed, "reference"),
        )
    rows = [[*prompt, *sample.ids] for prompt, sample in zip(encoded, samples, strict=True)]
    ended = [row for row, sample in zip(rows, samples, strict=True) if sample.finish_reason == "stop"]
    which = f"samples of the starting policy for prompts {f'of the pool {pool}' if pool else 'of the file'}"
    cut = f"{len(rows) - len(ended)} of {len(rows)} were cut off after {most} tokens"
    if len(ended) == len(rows):
        return rows, f"Scores are normalised on {len(rows)} {which}.", "info"
    if 2 * len(ended) >= max(len(rows), 4):
        return ended, f"Scores are normalised on {len(ended)} {which}; {cut} and are left out.", "info"
    key = "reward_model.normalise_new_tokens" if settings.normalise_new_tokens else "ppo.max_new_tokens"
    why = f"and the scores of whole ones may have another mean and deviation; raise {key}"
    return rows, f"Scores are normalised on {len(rows)} {which}, but {cut}, {why}.", "warning"


def normalise(members, rows, *, compute):
    """Scales and shifts the members' scores so that each member weighs the same in their mean, which has mean 0 and
    deviation 1 over these token ids."""
    shared, scores = compute.share(rows), []
    for number in range(len(members)):
        member = bring(members, number, compute.device)
        with compute.autocast(), torch.no_grad():
            found = compute.merge(scorer.score_rows(member, shared), len(rows)).double()
        gain = 1 / deviation_of(found)
        member.fold(gain, -gain * found.mean().item())
        scores.append(gain * (found - found.mean()))
    if len(members) > 1:
        # Members that differ cancel each other out in part: their mean deviates less than each of them.
        gain = 1 / deviation_of(torch.stack(scores).mean(0))
        for member in members:
            member.fold(gain, 0.0)


def deviation_of(scores):
    """Their deviation; 1 where they are all alike and there is nothing to scale by."""
    deviation = scores.std(correction=0).item()
    return deviation if deviation > 1e-6 else 1.0
