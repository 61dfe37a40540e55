"""PPO of a policy against a scorer, with a KL penalty to the SFT policy (arXiv:1707.06347, arXiv:2203.02155).

Each iteration: sample completions of a batch of prompts; score them; take log-probs, reference log-probs and values
of what was sampled; turn them into rewards and advantages; make ppo_epochs passes of clipped updates. No network has
dropout. One temperature holds for sampling, reference and update.

Where this differs from arXiv:2403.17031 (the N+ details):
- The score stands on the completion's last token, its end-of-turn token, which is an action like any other.
- The value of action t is read one position before its token. A separate value network starts as the reward model (the
  first member of an ensemble), so at the position of the score it says the score, and before it the score of the
  text so far.
- A completion that did not end gets missing_eos_score as its score, whatever the reward model says.
- Policy and separate value network have an optimizer and a gradient norm each.
"""

import dataclasses
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from training.engine import data, lora, losses, rollout, scorer
from training.engine.config import ConfigError
from training.engine.guards import Guards, require_finite
from training.engine.optim import AdamW, build_optimizer, learning_rate, take_step
from training.engine.players import make_players
from training.engine.progress import Progress
from training.engine.rollout import derive_seed
from training.engine.sections import OptimConfig

LOOK_TOKENS_GPU = 8192  # padded tokens in one forward pass without gradients
SUMMARY = (  # readings of the last iteration that the event `finished` repeats
    "score_mean",
    "rewards_mean",
    "kl_per_completion",
    "exact_kl_per_completion",
    "entropy",
    "length_mean",
    "eos_rate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """An optimizer with its settings."""

    optimizer: AdamW
    optim: OptimConfig
    prefix: str  # of its metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt as the policy reads it."""

    messages: list[dict]
    token_ids: list[int]
    text: str  # for people


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the networks say of sampled trajectories, without gradients. All (B, T), 0 where not action_mask."""

    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    entropy: Tensor  # nats
    exact_kl: Tensor  # nats


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains inputs.policy on inputs.prompts against inputs.reward_model; writes the policy to output/.

    inputs.ref_policy is what the KL penalty holds on to; where none is named, the policy as it starts.
    Raises GuardStopped when the run is sick, Interrupted when asked to stop.
    """
    settings = config.ppo
    players = make_players(config)
    trainers = make_trainers(players, settings)
    prompts, note = load_prompts(config, players)
    controller = rollout.KlController(settings.kl_coef, target=settings.kl_target, horizon=settings.kl_horizon)
    guards = Guards(settings)
    showcase = Showcase(players, prompts, settings, seed=config.run.seed)

    progress = Progress(config, run_dir, stage="ppo", total_steps=settings.iterations, should_stop=should_stop)
    progress.track(**{name: lora.tracked(module) for name, module in players.trained().items()})
    progress.track(kl_controller=controller, guards=guards)
    progress.track(**{f"{name}_optimizer": trainer.optimizer for name, trainer in trainers.items()})
    progress.start(resume, device=players.policy.device)
    progress.log(note)

    for iteration in progress.steps():
        began = time.perf_counter()
        batch = take_prompts(prompts, iteration, settings, seed=config.run.seed)
        drawn, readings = roll_out(
            players,
            batch,
            settings,
            kl_coef=controller.kl_coef,
            seed=derive_seed(config.run.seed, "rollout", iteration),
        )
        rewards, action_mask = drawn.rewards, drawn.trajectories.action_mask
        if settings.whiten_rewards:
            rewards = rollout.whiten(rewards, action_mask, keep_mean=True)
        advantages, returns = rollout.gae(rewards, drawn.values, action_mask, settings.gamma, settings.gae_lambda)
        advantages = rollout.whiten(advantages, action_mask)
        readings["explained_variance"] = rollout.explained_variance(drawn.values, returns, action_mask).item()
        rolled_out = time.perf_counter()

        readings |= update(players, trainers, drawn, advantages, returns, settings, iteration, seed=config.run.seed)
        controller.update(readings["kl_per_completion"], settings.batch_size)

        seconds_rollout, seconds_update = rolled_out - began, time.perf_counter() - rolled_out
        readings |= {
            "seconds_rollout": seconds_rollout,
            "seconds_update": seconds_update,
            "episodes_per_second": settings.batch_size / (seconds_rollout + seconds_update),
        }
        progress.metrics(iteration + 1, **readings)
        guards.check(readings, iteration + 1)
        if showcase.is_due(iteration + 1):
            progress.samples(iteration + 1, showcase.show())
        progress.end_step(iteration + 1)

    digest = progress.write_output(lora.save_policy, players.policy, players.tokenizer)
    progress.finish(digest=digest, summary={name: readings[name] for name in SUMMARY if name in readings})


def roll_out(players, prompts, settings, *, kl_coef, seed):
    """(Rollout, readings): completions of the prompts, scored, with all that the update needs of this moment."""
    samples = players.draw(players.policy, prompts, settings, copies=settings.samples_per_prompt, seed=seed)
    prompts = [prompt for prompt in prompts for _ in range(settings.samples_per_prompt)]
    trajectories, captured = collate_samples(prompts, samples, players)
    ended = torch.tensor([sample.finish_reason == "stop" for sample in samples], device=captured.device)
    scored = players.score(prompts, samples)
    scores = scored.mean
    if settings.uncertainty_coef and scored.std is not None:
        scores = scores - settings.uncertainty_coef * scored.std
    if settings.score_clip:
        scores = scores.clamp(-settings.score_clip, settings.score_clip)
    scores = rollout.scores_with_ends(scores.to(ended.device), ended, settings.missing_eos_score)

    look = look_at(players, trajectories, temperature=settings.temperature)
    old_logprobs = captured if settings.logprobs == "captured" else look.logprobs
    mask = trajectories.action_mask
    rewards = rollout.token_rewards(scores, old_logprobs, look.ref_logprobs, mask, kl_coef)
    drawn = rollout.Rollout(
        trajectories=trajectories,
        old_logprobs=old_logprobs,
        ref_logprobs=look.ref_logprobs,
        values=look.values,
        scores=scores,
        rewards=rewards,
    )
    readings = {
        "score_mean": scored.mean.mean().item(),
        "score_deviation": scores.std(correction=0).item(),
        "rewards_mean": rewards.sum(1).mean().item(),
        "kl_per_completion": rollout.completion_kl(old_logprobs, look.ref_logprobs, mask).mean().item(),
        "exact_kl_per_completion": look.exact_kl.sum(1).mean().item(),
        "kl_coef": kl_coef,
        "entropy": rollout.masked_mean(look.entropy, mask).item(),
        "value_mean": rollout.masked_mean(look.values, mask).item(),
        "length_mean": mask.sum(1).float().mean().item(),
        "eos_rate": ended.float().mean().item(),
        "logprob_gap": rollout.masked_mean((captured - look.logprobs).abs(), mask).item(),
    }
    if scored.std is not None:
        readings["ensemble_deviation"] = scored.std.mean().item()
    return drawn, readings


@torch.no_grad()
def look_at(players, trajectories, *, temperature):
    """The Look at whole trajectories, in batches by length; each rank looks at its share."""
    mask, share = trajectories.action_mask, players.compute.share
    looks = {name: torch.zeros(share(mask).shape, device=mask.device) for name in Look.__slots__}
    numbers = share(range(len(mask)))
    most = LOOK_TOKENS_GPU if mask.is_cuda else data.CPU_PASS_TOKENS
    for rows in data.batches_by_length(share(trajectories.lengths), most_tokens=most):
        part = trajectories.take([numbers[row] for row in rows])
        with players.compute.autocast():
            hidden = rollout.action_hidden(players.policy, part)
            logits = players.policy.project(hidden)
            ref_logits = rollout.action_logits(players.ref_policy, part)
            part_values = players.values(part, hidden)
        found = rollout.compare(logits, ref_logits, part, temperature=temperature) | {"values": part_values}
        for name, values in found.items():
            looks[name][rows, : values.shape[1]] = values
    return Look(**{name: players.compute.merge(values, len(mask)) for name, values in looks.items()})


def update(players, trainers, drawn, advantages, returns, settings, iteration, *, seed):
    """ppo_epochs passes over a rollout; the readings, means over all optimizer steps."""
    sums = {}
    is_warmup = iteration < settings.value_warmup_iterations
    steps_per_epoch = settings.batch_size // settings.minibatch_size
    step = iteration * settings.ppo_epochs * steps_per_epoch
    total_steps = settings.iterations * settings.ppo_epochs * steps_per_epoch
    lengths, actions = drawn.trajectories.lengths, drawn.trajectories.completion_lengths
    most = data.pass_tokens(players.compute, on_gpu=None)
    first_log_ratio = None
    for epoch in range(settings.ppo_epochs):
        generator = torch.Generator().manual_seed(derive_seed(seed, "minibatches", iteration, epoch))
        order = torch.randperm(settings.batch_size, generator=generator)
        for number, minibatch in enumerate(order.view(-1, settings.minibatch_size).tolist()):
            # Over the whole step, or the tokens of short completions would weigh more in small micro-batches.
            denominator = sum(actions[row] for row in minibatch)
            found = {}
            mine = players.compute.share(minibatch)
            for rows in passes(mine, lengths, settings.micro_batch_size, most_tokens=most):
                part = drawn.trajectories.take(rows)
                loss, parts = ppo_loss(
                    players, part, drawn, advantages, returns, rows, settings, denominator, is_warmup
                )
                loss.backward()
                for name, value in parts.items():
                    found[name] = found.get(name, 0.0) + value
            found = dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))  # one wait for the device
            found = players.compute.total(found)
            require_finite(found, iteration + 1, batch=number)
            log_ratio = found.pop("log_ratio")
            first_log_ratio = log_ratio if first_log_ratio is None else first_log_ratio
            for name, trainer in trainers.items():
                rate = learning_rate(trainer.optim, step, total_steps)
                norm = take_step(trainer.optimizer, trainer.optim, rate=rate, what=f"{name}, step {step}")
                found |= {trainer.prefix + "grad_norm": norm, trainer.prefix + "learning_rate": rate}
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + value
            step += 1
    means = {name: value / (settings.ppo_epochs * steps_per_epoch) for name, value in sums.items()}
    return {**means, "first_log_ratio": first_log_ratio}


def passes(minibatch, lengths, size, *, most_tokens):
    """The rows of a minibatch in passes of like length: `size` rows each, or where that is 0 as many as are padded to
    most_tokens; None takes all.

    lengths: tokens of every row of the rollout.
    """
    if size or most_tokens is None:
        ordered = sorted(minibatch, key=lengths.__getitem__)
        size = size or len(ordered)
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]
    found = data.batches_by_length([lengths[row] for row in minibatch], most_tokens=most_tokens)
    return [[minibatch[place] for place in places] for places in found]


def ppo_loss(players, part, drawn, advantages, returns, rows, settings, denominator, is_warmup):
    """(loss, readings) of some rows of a rollout; sums over their tokens, divided by the whole step's `denominator`."""
    mask = part.action_mask
    rows = torch.as_tensor(rows).to(mask.device, non_blocking=True)
    old_logprobs, old_values, advantages, returns = (
        x.index_select(0, rows)[:, : mask.shape[1]] for x in (drawn.old_logprobs, drawn.values, advantages, returns)
    )
    with players.compute.autocast():
        with torch.set_grad_enabled(not is_warmup):  # a warm-up trains nothing but the value
            hidden = rollout.action_hidden(players.policy, part)
            logits = players.policy.project(hidden)
        values = players.values(part, hidden)
    with torch.set_grad_enabled(not is_warmup):
        logprobs = rollout.action_logprobs(logits, part, temperature=settings.temperature)
        policy_loss = losses.policy_loss(
            logprobs, old_logprobs, advantages, mask, clip_range=settings.clip_range, denominator=denominator
        )
    value_loss = losses.value_loss(
        values, old_values, returns, mask, value_clip_range=settings.value_clip_range, denominator=denominator
    )
    loss = policy_loss + settings.value_coef * value_loss
    if settings.entropy_coef and not is_warmup:
        entropy = part.spread(rollout.entropy(logits, temperature=settings.temperature))
        loss = loss - settings.entropy_coef * losses.entropy_bonus(entropy, mask, denominator)
    with torch.no_grad():
        log_ratio = torch.where(mask, logprobs - old_logprobs, torch.zeros_like(logprobs))
        ratio = log_ratio.exp()
        readings = {
            "policy_loss": policy_loss.detach(),
            "value_loss": value_loss.detach(),
            "clip_fraction": ((ratio - 1).abs() > settings.clip_range).sum() / denominator,
            "value_clip_fraction": ((values - old_values).abs() > (settings.value_clip_range or torch.inf)).sum()
            / denominator,
            "approx_kl": (ratio - 1 - log_ratio).sum() / denominator,
            "log_ratio": log_ratio.abs().sum() / denominator,
        }
    return loss, readings


def make_trainers(players, settings):
    """{name: Trainer}: one for the policy (with a head on its trunk), one for a separate value network."""
    parameters = list(players.policy.parameters())
    if players.value_head is not None:
        parameters += players.value_head.parameters()
    trainers = {
        "policy": Trainer(optimizer=build_optimizer(parameters, settings.optim), optim=settings.optim, prefix="")
    }
    if players.value_network is not None:
        rate = settings.value_learning_rate or settings.optim.learning_rate
        optim = dataclasses.replace(settings.optim, learning_rate=rate)
        optimizer = build_optimizer(players.value_network, optim)
        trainers["value"] = Trainer(optimizer=optimizer, optim=optim, prefix="value_")
    return trainers


def load_prompts(config, players):
    """(prompts, a sentence on which they are): those of the pool ppo, or where none is, all but those that measure."""
    found = data.load_prompts(config.inputs.prompts)
    taken = [prompt for prompt in found if prompt.pool == "ppo"]
    note = f"Rollouts take the {len(taken)} prompts of the pool ppo, of {len(found)} in the file."
    if not taken:
        taken = [prompt for prompt in found if prompt.pool != "eval"]
        note = (
            f"No prompt belongs to the pool ppo, so rollouts take the {len(taken)} prompts of all pools but eval, "
            f"of {len(found)}."
        )
    if not taken:
        raise ConfigError(
            f"{config.inputs.prompts} holds only prompts of the pool eval, which measure and must never train; "
            "add prompts of the pool ppo."
        )
    networks = (players.policy.config, players.ref_policy.config)
    longest = min(scorer.max_positions(players.scorer), *(architecture.max_positions for architecture in networks))
    most = longest - config.ppo.max_new_tokens
    prompts = []
    for prompt in taken:
        token_ids = players.tokenizer.encode_prompt(prompt.messages)
        if len(token_ids) > most:
            raise ConfigError(
                f"The prompt {prompt.digest} has {len(token_ids)} tokens; policy, reference and reward model all read "
                f"{longest}, so with ppo.max_new_tokens={config.ppo.max_new_tokens} it may have {most}: lower "
                "ppo.max_new_tokens or leave the prompt out."
            )
        prompts.append(Prompt(messages=prompt.messages, token_ids=token_ids, text=scorer.readable(prompt.messages)))
    return prompts, note


def take_prompts(prompts, iteration, settings, *, seed):
    """The prompts of an iteration. They come in a shuffled order, all once before any comes again."""
    count = settings.batch_size // settings.samples_per_prompt
    taken = []
    for place in range(iteration * count, (iteration + 1) * count):
        epoch, index = divmod(place, len(prompts))
        if not taken or index == 0:
            order = data.shuffled(len(prompts), seed=derive_seed(seed, "prompts"), epoch=epoch)
        taken.append(prompts[order[index]])
    return taken


def collate_samples(prompts, samples, players):
    """(Trajectories, log-probs captured while sampling (B, T)) of samples."""
    device = players.policy.device
    trajectories = rollout.collate(
        [prompt.token_ids for prompt in prompts],
        [sample.ids for sample in samples],
        pad_id=players.tokenizer.pad_id,
        device=device,
    )
    captured = [logprob for sample in samples for logprob in sample.logprobs]
    return trajectories, trajectories.spread(torch.tensor(captured, device=device))


class Showcase:
    """The policy's completions of a few fixed prompts beside the reference's, for people to look at."""

    def __init__(self, players, prompts, settings, *, seed):
        self.players, self.settings = players, settings
        self.seed = derive_seed(seed, "samples")
        self.prompts = prompts[: settings.sample_prompts]
        self._reference = None

    def is_due(self, iteration):
        every = self.settings.sample_every_iterations
        return bool(self.prompts) and (iteration % every == 0 or iteration in (1, self.settings.iterations))

    def show(self):
        """Samples as rundir describes them. The reference's draws, from the same random numbers, are made once."""
        if self._reference is None:
            self._reference = self._draw(self.players.ref_policy)
        return [
            {
                "prompt": prompt.text,
                "completion": completion,
                "reference": reference,
                "score": score,
                "reference_score": reference_score,
            }
            for prompt, (completion, score), (reference, reference_score) in zip(
                self.prompts, self._draw(self.players.policy), self._reference, strict=True
            )
        ]

    def _draw(self, policy):
        samples = self.players.draw(policy, self.prompts, self.settings, seed=self.seed)
        scores = self.players.score(self.prompts, samples).mean.tolist()
        texts = [self.players.tokenizer.decode(sample.ids) for sample in samples]
        return list(zip(texts, scores, strict=True))
