"""One config-driven decoder for every family that families.py knows.

B batch, T tokens, V vocabulary, D width, L layers.

Query, key and value are one matrix in memory, and so are gate and up: on a CPU small products cost more in calls than
in arithmetic. Files keep them apart, as Hugging Face does; families.py splits and joins.
"""

import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from training.engine.attention import Attention, causal_mask
from training.engine.linear import Linear, fill_places, for_reading
from training.engine.norms import make_norm
from training.engine.rotary import Rotary


def positions_from_mask(attention_mask):
    """(B, T) bool -> (B, T) positions that count real tokens only, so that padding on either side changes nothing."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_(min=0)


class Mlp(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        a = architecture
        self.gated = a.mlp == "swiglu"
        self.approximate = "tanh" if a.mlp == "gelu_tanh" else "none"
        self.up = Linear(a.hidden_size, a.intermediate_size * (2 if self.gated else 1), bias=a.mlp_bias)
        self.down = Linear(a.intermediate_size, a.hidden_size, bias=a.mlp_bias)

    def forward(self, x):
        wide = self.up(x)
        if self.gated:
            gate, up = wide.chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(wide, approximate=self.approximate))


class Block(nn.Module):
    def __init__(self, architecture):
        super().__init__()
        self.parallel = architecture.parallel_residual
        self.attention_norm = make_norm(architecture, architecture.hidden_size)
        self.attention = Attention(architecture)
        self.mlp_norm = make_norm(architecture, architecture.hidden_size)
        self.mlp = Mlp(architecture)

    def forward(self, x, *context):
        if self.parallel:
            return x + self.attention(self.attention_norm(x), *context) + self.mlp(self.mlp_norm(x))
        x = x + self.attention(self.attention_norm(x), *context)
        return x + self.mlp(self.mlp_norm(x))

    def packed(self, x, layout, back, places, *context):
        """x (N, D) in a packing.Layout -> (n, D), of the tokens in `places` (n,) alone; None is all.

        back: (N,) the place of each token in the layout's groups.
        """
        back = back if places is None else back.index_select(0, places)
        mixed = self.attention.packed(self.attention_norm(x), layout, back, *context)
        if places is not None:
            x = x.index_select(0, places)
        if self.parallel:
            return x + mixed + self.mlp(self.mlp_norm(x))
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """A decoder. `policy(input_ids, attention_mask)` gives logits; a reward model uses `hidden` alone."""

    def __init__(self, architecture):
        super().__init__()
        a = self.config = architecture
        self.embedding = nn.Embedding(a.vocab_size, a.hidden_size)
        self.position_embedding = nn.Embedding(a.max_positions, a.hidden_size) if a.positions == "learned" else None
        self.rotary = Rotary(a) if a.positions == "rope" else None
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.n_layers))
        self.norm = make_norm(a, a.hidden_size)
        self.lm_head = Linear(a.hidden_size, a.vocab_size, bias=False)
        if a.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    @property
    def device(self):
        return self.embedding.weight.device

    def initialise(self, generator=None):
        """Fresh weights: normal, embeddings with deviation 0.02, matrices with 1/sqrt(fan in), those that write to the
        residual stream smaller by sqrt(2 L) (GPT-2's rule; at D = 2048 and more its 0.02 is about 1/sqrt(D), and in
        a narrow model it is so little that the first hundreds of steps are lost)."""
        residual = {f"blocks.{i}.{name}" for i in range(self.config.n_layers) for name in RESIDUAL_MATRICES}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if parameter.dim() >= 2:
                    shrink = math.sqrt(2 * self.config.n_layers) if name in residual else 1.0
                    embedding = "embedding" in name or name == "lm_head.weight"
                    deviation = 0.02 if embedding else parameter.shape[1] ** -0.5
                    parameter.normal_(0.0, deviation / shrink, generator=generator)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.fill_(1.0)
        return self

    def forward(
        self, input_ids, attention_mask=None, *, positions=None, cache=None, document_ids=None, return_hidden=False
    ):
        """Logits (B, T, V), or the hidden states (B, T, D) they are made from.

        input_ids:      (B, T) long.
        attention_mask: (B, T), true or 1 where a token is real; None is all.
        positions:      (B, T) long; by default they count real tokens.
        cache:          a KeyValueCache: its rows in use are extended by these tokens, which must all be real.
        document_ids:   (B, T) long; tokens see only their own document, and positions start anew in each.
        """
        hidden = self.hidden(input_ids, attention_mask, positions=positions, cache=cache, document_ids=document_ids)
        return hidden if return_hidden else self.project(hidden)

    def project(self, hidden):
        """(..., D) -> logits (..., V)."""
        return self.lm_head(hidden)

    def hidden(self, input_ids, attention_mask=None, *, positions=None, cache=None, document_ids=None):
        """(B, T, D) after the final norm. Arguments as in `forward`."""
        if cache is not None:
            return self._extend(input_ids, cache)
        mask, causal = None, True
        if attention_mask is not None:
            attention_mask = attention_mask.bool()
            if positions is None:
                positions = positions_from_mask(attention_mask)
        if document_ids is not None:
            if positions is None:
                positions = positions_in_documents(document_ids)
            mask = causal_mask(input_ids.shape[1], input_ids.device)
            mask = (mask & (document_ids[:, None, :] == document_ids[:, :, None]))[:, None]
        elif attention_mask is not None and not padded_right(attention_mask):
            mask = causal_mask(input_ids.shape[1], input_ids.device)
            # Padding looks at itself alone: a row that sees nothing would be NaN.
            itself = torch.eye(input_ids.shape[1], dtype=torch.bool, device=input_ids.device)
            mask = ((mask & attention_mask[:, None, :]) | itself)[:, None]
        if positions is None:
            positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # Padding on the right needs no mask: what is real never looks ahead.
        return self._run(input_ids, positions, mask, causal and mask is None, None)

    def hidden_packed(self, input_ids, layout, places=None):
        """(n, D) after the final norm, of the tokens in `places` (n,), all different; None is all N.

        input_ids: (N,) long, laid out by a packing.Layout. The last layer computes those places alone.
        """
        count = len(input_ids if places is None else places)
        fill = functools.partial(fill_places, weight=self.embedding.weight)
        x = self.embedding(fill(input_ids))
        if self.position_embedding is not None:
            x = x + self.position_embedding(fill(layout.positions))
        back, turns = fill(layout.back), self._turns(layout.slot_positions, x.dtype)
        window = self.config.sliding_window
        for layer, block in enumerate(self.blocks):
            wanted = fill(places) if places is not None and layer == len(self.blocks) - 1 else None
            seen = window if layer >= self.config.full_attention_layers else 0
            x = block.packed(x, layout, back, wanted, self.rotary, turns, seen)
        return self.norm(x)[:count]

    def prefill(self, input_ids, lengths, cache):
        """Adds rows to the cache: input_ids (B, T) padded right, lengths (B,). Returns hidden (B, T, D)."""
        offset, longest = cache.rows, input_ids.shape[1]

        def store(layer):
            return lambda key, value: cache.extend(layer, key, value, offset=offset, positions=None)

        positions = torch.arange(longest, device=input_ids.device)
        hidden = self._run(input_ids, positions, None, True, store)
        cache.rows += input_ids.shape[0]
        cache.lengths[offset : cache.rows] = lengths
        cache.longest = max(cache.longest, longest)
        return hidden

    def _extend(self, input_ids, cache):
        rows, length = input_ids.shape
        if rows != cache.rows:
            raise ValueError(f"{rows} rows of tokens do not fit a cache with {cache.rows} rows in use.")
        steps = torch.arange(length, device=input_ids.device)
        positions = cache.lengths[:rows, None] + steps
        columns = torch.arange(cache.longest + length, device=input_ids.device)
        mask = (columns <= positions[:, :, None])[:, None]  # (B, 1, T, U)

        def store(layer):
            return lambda key, value: cache.extend(layer, key, value, offset=0, positions=positions)

        hidden = self._run(input_ids, positions, mask, False, store)
        cache.lengths[:rows] += length
        cache.longest += length
        return hidden

    def _run(self, input_ids, positions, mask, causal, store):
        window = self.config.sliding_window
        windowed = mask, causal
        if window and (mask is not None or input_ids.shape[1] > window):
            windowed = self._windowed(mask, positions, window), False
        x = self.embedding(input_ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        turns = self._turns(positions, x.dtype)
        for layer, block in enumerate(self.blocks):
            seen = windowed if layer >= self.config.full_attention_layers else (mask, causal)
            x = block(x, self.rotary, turns, *seen, store(layer) if store else None)
        return self.norm(x)

    def _turns(self, positions, dtype):
        if self.rotary is None:
            return None
        turns = self.rotary.at(positions)
        return turns if dtype is torch.float32 else tuple(turn.to(dtype) for turn in turns)

    def _windowed(self, mask, positions, window):
        if mask is None:
            mask = causal_mask(positions.shape[-1], positions.device)[None, None]
        queries, columns = mask.shape[-2:]
        if queries == columns:  # a full pass: columns are tokens, in order, padding only at the ends
            order = torch.arange(queries, device=mask.device)
            return mask & (order[:, None] - order[None, :] < window)
        order = torch.arange(columns, device=mask.device)
        return mask & (positions[:, None, :, None] - order < window)


RESIDUAL_MATRICES = ("attention.output.weight", "mlp.down.weight")


def padded_right(attention_mask):
    """Whether every row's real tokens come first."""
    return not bool((attention_mask[:, 1:] > attention_mask[:, :-1]).any())


def positions_in_documents(document_ids):
    """(B, T) document numbers, equal ones together -> (B, T) positions from 0 in each document."""
    order = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    first = torch.ones_like(document_ids, dtype=torch.bool)
    first[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    starts = torch.where(first, order, torch.zeros_like(order)).cummax(dim=1).values
    return order - starts


def rounded(module, dtype):
    """The module with its matrices in `dtype`, for reading only: what autocast makes of them in every pass, made once.

    All else, the embedding too, is shared with the module.
    """
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    twin = copy.deepcopy(module, shared)
    for parent in list(twin.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear):
                setattr(parent, name, for_reading(part, dtype))
    return twin


def count_parameters(module: nn.Module) -> int:
    """Distinct numbers that are trained (a tied matrix counts once)."""
    return sum(parameter.numel() for parameter in module.parameters())
