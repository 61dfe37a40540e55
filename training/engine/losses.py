"""Losses of the reward model, of PPO and of the language model: tensors in, tensors out.

Sums are divided by a `denominator` that the caller counts over the whole optimizer step (all its micro-batches and
ranks): a mean taken in each micro-batch would weigh the tokens of short completions more.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Comparisons(NamedTuple):
    """Every (chosen, rejected) pair of several rankings, flat."""

    chosen: Tensor  # (P,) int64, index into a flat vector of scores
    rejected: Tensor  # (P,) int64
    weight: Tensor  # (P,) float32; those of one ranking add up to the ranking's weight


def comparison_pairs(order):
    """(chosen, rejected) index pairs of one ranking; a tie gives none.

    order: tie groups of indices, best first. Indices that are absent (unranked completions) are in no pair.
    """
    return [
        (chosen, rejected)
        for place, group in enumerate(order)
        for chosen in group
        for worse in order[place + 1 :]
        for rejected in worse
    ]


def collate_comparisons(orders, weights=None, *, device=None):
    """Comparisons of several rankings, whose scores stand one ranking after another in one flat vector.

    orders:  one ranking each, as (K, tie groups of indices below K).
    weights: one number a ranking; 1 where none are given.
    A ranking's comparisons share its weight evenly, so a prompt weighs the same for any K.
    """
    chosen, rejected, weight = [], [], []
    start = 0
    for number, (count, order) in enumerate(orders):
        pairs = comparison_pairs(order)
        share = (1.0 if weights is None else float(weights[number])) / max(len(pairs), 1)
        chosen += [start + better for better, _ in pairs]
        rejected += [start + worse for _, worse in pairs]
        weight += [share] * len(pairs)
        start += count
    return Comparisons(
        torch.tensor(chosen, dtype=torch.int64, device=device),
        torch.tensor(rejected, dtype=torch.int64, device=device),
        torch.tensor(weight, dtype=torch.float32, device=device),
    )


def ranking_loss(scores, comparisons, denominator):
    """Weighted sum of -log sigmoid(s_chosen - s_rejected) over several rankings, divided by `denominator`.

    scores:      (N,) all completions of the rankings, float32.
    denominator: the rankings' weights added up, over the whole optimizer step.
    """
    # index_select, not scores[...]: the gradient of the latter adds up in another order from run to run.
    margins = scores.index_select(0, comparisons.chosen) - scores.index_select(0, comparisons.rejected)
    return -(comparisons.weight * functional.logsigmoid(margins)).sum() / denominator


def kwise_ranking_loss(scores, order):
    """Mean -log sigmoid(s_chosen - s_rejected) over a ranking's comparisons.

    scores: (K,) one prompt's completions, float32.
    order:  tie groups of indices, best first, e.g. [[2], [0, 3], [1]].
    A prompt weighs the same for any K (InstructGPT, arXiv:2203.02155, eq. 1).
    Raises ValueError if order is not a partition of range(K), or is all ties.
    """
    count = len(scores)
    if sorted(index for group in order for index in group) != list(range(count)):
        raise ValueError(
            f"order={order} must name each of the {count} completions once; leave unranked ones out of both."
        )
    if len([group for group in order if group]) < 2:
        raise ValueError(f"order={order} is all ties, so it compares nothing; leave such a ranking out.")
    return ranking_loss(scores, collate_comparisons([(count, order)], device=scores.device), 1.0)


def policy_loss(logprobs, old_logprobs, advantages, action_mask, *, clip_range, denominator):
    """PPO's clipped objective, negated, over the tokens that count (arXiv:1707.06347, eq. 7).

    logprobs, old_logprobs, advantages, action_mask: (B, T).
    denominator: action tokens of the whole optimizer step.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    return -_masked_sum(objective, action_mask) / denominator


def value_loss(values, old_values, returns, action_mask, *, value_clip_range, denominator):
    """Half of the squared error, the worse of clipped and unclipped values; 0 as range does not clip.

    values, old_values, returns, action_mask: (B, T).
    denominator: action tokens of the whole optimizer step.
    """
    error = (values - returns).square()
    if value_clip_range:
        clipped = old_values + (values - old_values).clamp(-value_clip_range, value_clip_range)
        error = torch.maximum(error, (clipped - returns).square())
    return 0.5 * _masked_sum(error, action_mask) / denominator


def language_model_loss(logprobs, action_mask, denominator):
    """Negative log-likelihood of the tokens that count, nats, divided by `denominator`.

    logprobs, action_mask: (B, T).
    """
    return -_masked_sum(logprobs, action_mask) / denominator


def entropy_bonus(entropy, action_mask, denominator):
    """Entropy of the tokens that count, nats, divided by `denominator`; to be subtracted from a loss.

    entropy, action_mask: (B, T).
    """
    return _masked_sum(entropy, action_mask) / denominator


def _masked_sum(x, mask):
    # where, not a product: inf * 0 in a padded place would be NaN.
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device)).sum()
