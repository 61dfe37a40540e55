"""The scalar head, and the reward model (or value network) that it makes of a trunk."""

import math

import torch
from torch import nn

from training.engine.transformer import Transformer


class ScalarHead(nn.Module):
    """Linear D -> 1 without bias; fresh weights have deviation 1/sqrt(D + 1) (arXiv:1909.08593), or are zero."""

    def __init__(self, hidden_size, *, zero=False, generator=None):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, hidden_size))
        if not zero:
            with torch.no_grad():
                self.weight.normal_(0.0, 1 / math.sqrt(hidden_size + 1), generator=generator)

    def forward(self, hidden):
        """(..., D) -> (...), float32 also under autocast: in bfloat16, scores near 2 would stand in steps of 1/64."""
        with torch.autocast(hidden.device.type, enabled=False):
            return nn.functional.linear(hidden.float(), self.weight.float()).squeeze(-1)


class RewardModel(nn.Module):
    """A trunk with a scalar head. The score stands at the last token that is not padding.

    score = head(hidden) + score_shift; a gain is folded into the head, as the file format wants it.
    """

    def __init__(self, trunk: Transformer, head: ScalarHead, *, score_shift=0.0):
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.register_buffer("score_shift", torch.tensor(float(score_shift)))
        # The trunk's output matrix is trained by a language-model loss only, and is not written to the file.

    @property
    def config(self):
        return self.trunk.config

    @property
    def device(self):
        return self.trunk.device

    def values(self, input_ids, attention_mask=None):
        """(B, T) one score for each prefix."""
        hidden = self.trunk.hidden(input_ids, attention_mask)
        return self.head(hidden).float() + self.score_shift

    def values_packed(self, input_ids, layout, places):
        """(n,) scores of the prefixes that end in `places` of a packing.Layout; input_ids (N,)."""
        return self.head(self.trunk.hidden_packed(input_ids, layout, places)).float() + self.score_shift

    def score_at_end(self, hidden, attention_mask):
        """(B,) scores from the trunk's hidden states (B, T, D), at the last token that is not padding."""
        order = torch.arange(hidden.shape[1], device=hidden.device)
        last = torch.where(attention_mask.bool(), order, torch.zeros_like(order)).amax(dim=1)
        rows = torch.arange(len(hidden), device=hidden.device) * hidden.shape[1]
        return self.head(hidden.flatten(0, 1).index_select(0, rows + last)).float() + self.score_shift

    def forward(self, input_ids, attention_mask=None):
        """(B,) scores of whole sequences."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids, dtype=torch.bool)
        return self.score_at_end(self.trunk.hidden(input_ids, attention_mask), attention_mask)

    @torch.no_grad()
    def fold(self, gain, shift):
        """Makes every score gain * score + shift."""
        self.head.weight.mul_(gain)
        self.score_shift.mul_(gain).add_(shift)
