"""Causal self-attention with grouped keys and values.

B batch, T and U tokens, H heads, G key-value heads, S size of a head.
"""

import torch
import torch.nn.functional as F
from torch import nn

from training.engine.linear import Linear
from training.engine.norms import RmsNorm


def causal_mask(length, device):
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def attend(query, key, value, mask, causal):
    """query (B, H, T, S), key and value (B, G, U, S) -> (B, H, T, S)."""
    rows, heads, length, size = query.shape
    groups = key.shape[1]
    is_cpu_bfloat16 = query.dtype is torch.bfloat16 and not query.is_cuda
    if length == 1 and mask is not None and not is_cpu_bfloat16:
        # One query each: the heads that share keys stand in the place of tokens, and nothing is copied. Plain products
        # are a tenth faster than the fused kernel on a CPU, which is made for many queries (in bfloat16 it takes half
        # their time, for they copy what they multiply).
        shared = query.reshape(rows, groups, heads // groups, size) * size**-0.5
        weights = (shared @ key.transpose(-1, -2)).masked_fill(~mask, -torch.inf).softmax(dim=-1)
        return (weights @ value).reshape(query.shape)
    if groups != heads:
        key = key.repeat_interleave(heads // groups, dim=1)
        value = value.repeat_interleave(heads // groups, dim=1)
    if is_cpu_bfloat16 and query.requires_grad:
        return _attend_plainly(query, key, value, mask, causal)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def _attend_plainly(query, key, value, mask, causal):
    """Attention as plain products: on a CPU the gradient of the fused kernel in bfloat16 takes five times as long."""
    if causal:
        mask = causal_mask(query.shape[2], query.device)
    weights = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return weights.softmax(dim=-1) @ value


class Attention(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        a = architecture
        self.n_heads, self.n_kv_heads, self.head_size = a.n_heads, a.n_kv_heads, a.head_size
        self.qkv = Linear(a.hidden_size, (a.n_heads + 2 * a.n_kv_heads) * a.head_size, bias=a.qkv_bias)
        self.output = Linear(a.n_heads * a.head_size, a.hidden_size, bias=a.output_bias)
        self.query_norm = RmsNorm(a.head_size, a.norm_eps) if a.qk_norm else None
        self.key_norm = RmsNorm(a.head_size, a.norm_eps) if a.qk_norm else None

    def forward(self, x, rotary, turns, mask, causal, stored):
        query, key, value = self._heads(self.qkv(x), rotary, turns)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if stored is not None:
            key, value = stored(key, value)
            query = query.to(key.dtype)
        mixed = attend(query, key, value, mask, causal)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def packed(self, x, layout, back, rotary, turns, window):
        """x (N, D) in a packing.Layout -> (n, D), of the tokens in the places `back` (n,)."""
        heads = self._heads(self.qkv(x).index_select(0, layout.slots), rotary, turns)
        mixed = layout.attend(*heads, attend, window=window)
        return self.output(mixed.index_select(0, back))

    def _heads(self, wide, rotary, turns):
        """(..., T, (H + 2 G) S) -> query (..., T, H, S), key and value (..., T, G, S), turned by their positions."""
        heads = wide.unflatten(-1, (self.n_heads + 2 * self.n_kv_heads, self.head_size))
        if rotary is None and self.query_norm is None:
            return heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=-2)
        turning, value = heads.split((self.n_heads + self.n_kv_heads, self.n_kv_heads), dim=-2)
        if self.query_norm is not None:
            query, key = turning.split((self.n_heads, self.n_kv_heads), dim=-2)
            turning = torch.cat([self.query_norm(query), self.key_norm(key)], dim=-2)
        if rotary is not None:
            turning = rotary.rotate(turning, *turns)
        return *turning.split((self.n_heads, self.n_kv_heads), dim=-2), value
