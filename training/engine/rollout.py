"""The arithmetic between sampling and the update: log-probs, rewards per token, advantages.

Pure functions. A trajectory is a prompt and its completion, right-padded: `input_ids` (B, S); networks take the same
tokens without padding, as a packing.Layout puts them. Its actions, the completion's tokens, stand in an array of their
own, (B, T): column t of every (B, T) tensor is the completion's t-th token, and `action_mask` is True where there is
one. What decides action t, its log-prob and its value alike, is read off the position before its token, so neither
sees the token itself.
"""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from training.engine import packing
from training.engine.data import CPU_PASS_TOKENS, batches_by_length


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Prompts with their completions."""

    input_ids: Tensor  # (B, S) int64, right-padded
    attention_mask: Tensor  # (B, S) bool, True = a token
    actions: Tensor  # (B, T) int64, the completions' tokens, 0 where not action_mask
    action_mask: Tensor  # (B, T) bool, True = this token counts
    prompt_lengths: list[int]  # tokens, known to the host
    completion_lengths: list[int]

    @property
    def lengths(self):
        """Tokens of each row, prompt and completion."""
        return [sum(pair) for pair in zip(self.prompt_lengths, self.completion_lengths, strict=True)]

    @functools.cached_property
    def layout(self):
        """The rows without padding, N tokens."""
        return packing.Layout(self.lengths, device=self.input_ids.device)

    @functools.cached_property
    def tokens(self):
        """(N,) int64, the rows one after another."""
        width = self.input_ids.shape[1]
        places = [torch.arange(row * width, row * width + length) for row, length in enumerate(self.lengths)]
        return self.input_ids.flatten().index_select(0, torch.cat(places).to(self.input_ids.device, non_blocking=True))

    @functools.cached_property
    def decisions(self):
        """(A,) int64, where in `tokens` each of the A actions is decided."""
        return packing.decisions(self.layout, self.prompt_lengths, self.completion_lengths)

    def take(self, rows):
        """These rows, a list of numbers, trimmed to their longest."""
        prompts = [self.prompt_lengths[row] for row in rows]
        completions = [self.completion_lengths[row] for row in rows]
        width, length = max(map(sum, zip(prompts, completions, strict=True))), max(completions)
        rows = torch.as_tensor(rows).to(self.input_ids.device, non_blocking=True)
        return Trajectories(
            input_ids=self.input_ids.index_select(0, rows)[:, :width],
            attention_mask=self.attention_mask.index_select(0, rows)[:, :width],
            actions=self.actions.index_select(0, rows)[:, :length],
            action_mask=self.action_mask.index_select(0, rows)[:, :length],
            prompt_lengths=prompts,
            completion_lengths=completions,
        )

    def spread(self, flat):
        """(N, ...) values of the actions as (B, T, ...), 0 where not action_mask."""
        shape = (*self.action_mask.shape, *flat.shape[1:])
        mask = self.action_mask.reshape(*self.action_mask.shape, *[1] * (flat.dim() - 1)).expand(shape)
        return flat.new_zeros(shape).masked_scatter(mask, flat)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """Trajectories with all that an update needs of the moment they were sampled."""

    trajectories: Trajectories
    old_logprobs: Tensor  # (B, T), 0 where not action_mask
    ref_logprobs: Tensor  # (B, T), 0 where not action_mask
    values: Tensor  # (B, T), 0 where not action_mask
    scores: Tensor  # (B,), the missing end paid for
    rewards: Tensor  # (B, T), KL penalty and score, 0 where not action_mask


def derive_seed(seed, *purpose):
    """A seed below 2**63 of its own for each purpose, e.g. (7, "rollout", iteration).

    A resumed run draws what an uninterrupted one would, for nothing depends on how often a generator was asked.
    """
    words = hashlib.sha256("/".join(map(str, (seed, *purpose))).encode()).digest()
    return int.from_bytes(words[:8], "big") >> 1


def truncate_at_stop(token_ids, stop_ids):
    """(the completion up to and with its first stop token, whether it has one)."""
    stops = frozenset(stop_ids)
    for place, token in enumerate(token_ids):
        if token in stops:
            return list(token_ids[: place + 1]), True
    return list(token_ids), False


def cut_at_stop(sample, stop_ids):
    """The Sample without what follows its first stop token; finish_reason says whether it has one."""
    ids, has_stop = truncate_at_stop(sample.ids, stop_ids)
    return dataclasses.replace(
        sample, ids=ids, logprobs=sample.logprobs[: len(ids)], finish_reason="stop" if has_stop else "length"
    )


def collate(prompts, completions, *, pad_id, device=None):
    """Trajectories of prompts and completions, lists of token ids. No completion may be empty."""
    if any(not completion for completion in completions) or any(not prompt for prompt in prompts):
        raise ValueError("Every prompt and completion needs at least one token: an empty one has nothing to score.")
    rows = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
    input_ids, attention_mask = _pad(rows, pad_id, device)
    actions, action_mask = _pad(completions, 0, device)
    return Trajectories(
        input_ids=input_ids,
        attention_mask=attention_mask,
        actions=actions,
        action_mask=action_mask,
        prompt_lengths=[len(prompt) for prompt in prompts],
        completion_lengths=[len(completion) for completion in completions],
    )


def distribution(logits, *, temperature=1.0):
    """Log-probs (..., V) of logits (..., V) divided by the temperature, float32."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def action_logprobs(logits, trajectories, *, temperature=1.0):
    """(B, T) log-prob of each action under logits (N, V) divided by the temperature."""
    return _of_actions(distribution(logits, temperature=temperature), trajectories)


def _of_actions(logprobs, trajectories):
    chosen = logprobs.gather(-1, trajectories.tokens.index_select(0, trajectories.decisions + 1)[:, None])[:, 0]
    return trajectories.spread(chosen)


def compare(logits, ref_logits, trajectories, *, temperature=1.0):
    """{logprobs, ref_logprobs, entropy, exact_kl}, each (B, T): as the functions of like names say, but each policy's
    distribution over the vocabulary, which costs most of it, is made once."""
    logprobs, ref_logprobs = (distribution(x, temperature=temperature) for x in (logits, ref_logits))
    chances = logprobs.exp()
    return {
        "logprobs": _of_actions(logprobs, trajectories),
        "ref_logprobs": _of_actions(ref_logprobs, trajectories),
        "entropy": trajectories.spread(-(chances * logprobs).sum(-1)),
        "exact_kl": trajectories.spread((chances * (logprobs - ref_logprobs)).sum(-1)),
    }


def entropy(logits, *, temperature=1.0):
    """(...) entropy in nats of logits (..., V) divided by the temperature."""
    logprobs = distribution(logits, temperature=temperature)
    return -(logprobs.exp() * logprobs).sum(-1)


def exact_kl(logits, ref_logits, *, temperature=1.0):
    """(...) KL(policy || reference) in nats, summed over the vocabulary: no sampling noise within a step.

    Summed over a sampled completion's tokens and averaged over completions it estimates the KL per completion
    without bias and with less variance than k1, for it is never negative.
    """
    logprobs, ref_logprobs = (distribution(x, temperature=temperature) for x in (logits, ref_logits))
    return (logprobs.exp() * (logprobs - ref_logprobs)).sum(-1)


@torch.no_grad()
def exact_kl_per_completion(policy, ref_policy, trajectories, *, temperature=1.0, most_tokens=CPU_PASS_TOKENS):
    """(B,) exact KL per token over the vocabulary, nats, summed over the tokens of each trajectory of the policy.

    most_tokens: padded, in one pass of the policies.
    """
    totals = torch.zeros(len(trajectories.actions), device=trajectories.actions.device)
    for rows in batches_by_length(trajectories.lengths, most_tokens=most_tokens):
        part = trajectories.take(rows)
        logits, ref_logits = action_logits(policy, part), action_logits(ref_policy, part)
        totals[rows] = part.spread(exact_kl(logits, ref_logits, temperature=temperature)).sum(1)
    return totals


def action_hidden(policy, trajectories):
    """(A, D) the policy's hidden states where the actions are decided."""
    return policy.hidden_packed(trajectories.tokens, trajectories.layout, trajectories.decisions)


def action_logits(policy, trajectories):
    """(A, V): the output matrix is applied to the actions alone, which are far fewer than the places."""
    return policy.project(action_hidden(policy, trajectories))


def masked_mean(x, mask):
    """Mean of x over the places where mask is True; 0 where there is none."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device)).sum() / mask.sum().clamp(min=1)


def whiten(x, mask, *, keep_mean=False, eps=1e-8):
    """x with mean 0 and variance 1 over the places where mask is True, and 0 elsewhere.

    keep_mean: scale only, around the mean, which stays.
    The variance divides by the count (so that shards can add up their sums), eps stands under the root.
    """
    mean = masked_mean(x, mask)
    variance = masked_mean((x - mean).square(), mask)
    whitened = (x - mean) * torch.rsqrt(variance + eps)
    if keep_mean:
        whitened = whitened + mean
    return torch.where(mask, whitened, torch.zeros((), dtype=x.dtype, device=x.device))


def scores_with_ends(scores, ended, missing_eos_score):
    """(B,) the scores, but missing_eos_score where a completion did not end by itself.

    A cut-off completion is no sample of what people ranked, so the reward model's word on it means little; a fixed
    low score is what teaches the policy to end (arXiv:1909.08593; arXiv:2403.17031, detail 20).
    """
    return torch.where(ended, scores, torch.full_like(scores, missing_eos_score))


def token_rewards(scores, logprobs, ref_logprobs, action_mask, kl_coef):
    """(B, T) rewards: -kl_coef * (logprob - ref_logprob) at each action, and the score at the last one.

    scores: (B,). logprobs, ref_logprobs, action_mask: (B, T).
    A row adds up to its score - kl_coef * its KL (k1, summed).
    """
    rewards = torch.where(action_mask, -kl_coef * (logprobs - ref_logprobs), torch.zeros_like(logprobs))
    last = action_mask.sum(1) - 1
    rewards[torch.arange(len(scores), device=scores.device), last] += scores
    return rewards


def completion_kl(logprobs, ref_logprobs, action_mask):
    """(B,) k1 estimate of KL(policy || reference) of each completion: sum of logprob - ref_logprob, nats."""
    return torch.where(action_mask, logprobs - ref_logprobs, torch.zeros_like(logprobs)).sum(1)


def gae(rewards, values, action_mask, gamma, gae_lambda):
    """(advantages, returns), each (B, T), by generalised advantage estimation (arXiv:1506.02438).

    rewards, values, action_mask: (B, T); each row's actions stand together. An episode ends with its last action:
    what follows is worth 0. returns = advantages + values. Both are 0 where not action_mask.
    """
    mask = action_mask.to(values.dtype)
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * gae_lambda * next_advantage) * mask[:, t]
        next_value = values[:, t] * mask[:, t]
        advantages[:, t] = next_advantage
    return advantages, torch.where(action_mask, advantages + values, torch.zeros_like(values))


def explained_variance(values, returns, action_mask):
    """1 - Var(returns - values) / Var(returns) over the actions; 0 where the returns do not vary."""
    residual = returns - values
    variance = masked_mean((returns - masked_mean(returns, action_mask)).square(), action_mask)
    unexplained = masked_mean((residual - masked_mean(residual, action_mask)).square(), action_mask)
    return torch.where(variance > 0, 1 - unexplained / variance.clamp(min=1e-12), torch.zeros_like(variance))


class KlController:
    """kl_coef, fixed or steered to a target KL per completion (arXiv:1909.08593, section 2.2)."""

    def __init__(self, kl_coef, *, target=0.0, horizon=10000):
        """target: nats per completion; 0 keeps kl_coef as it is. horizon: episodes."""
        self.kl_coef = kl_coef
        self.target = target
        self.horizon = horizon

    def state_dict(self):
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state):
        self.kl_coef = state["kl_coef"]

    def update(self, kl_per_completion, episodes):
        """Moves kl_coef by how far the KL just measured is off, at most 20% of that at a time."""
        if self.target:
            error = max(-0.2, min(0.2, kl_per_completion / self.target - 1))
            self.kl_coef *= 1 + error * episodes / self.horizon


def _pad(rows, pad_id, device):
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], dtype=torch.int64, device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(width, device=device) < lengths[:, None]
