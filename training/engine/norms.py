"""Norms of the residual stream, and of the heads where a family has them."""

import torch
import torch.nn.functional as F
from torch import nn


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        # Under autocast heads come in bfloat16, and torch's kernel wants one dtype.
        return F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)


def make_norm(architecture, size):
    if architecture.norm == "layer":
        return nn.LayerNorm(size, eps=architecture.norm_eps)
    return RmsNorm(size, architecture.norm_eps)
