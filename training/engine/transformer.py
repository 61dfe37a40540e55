"""One config-driven decoder for every family that families.py knows, and its key-value cache.

B batch, T tokens, V vocabulary, D width, H heads, G key-value heads, S size of a head, L layers.

Query, key and value are one matrix in memory, and so are gate and up: on a CPU small products cost more in calls than
in arithmetic. Files keep them apart, as Hugging Face does; families.py splits and joins.
"""

import copy
import dataclasses
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from training.engine.linear import Linear, fill_places, for_reading


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """Stretched rotary frequencies: `linear`, or `llama3` (arXiv:2407.21783 and its released code)."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Everything that decides a decoder's shape and arithmetic."""

    family: str = "llama"
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_size: int
    max_positions: int
    norm: str = "rms"  # rms | layer
    norm_eps: float = 1e-5
    positions: str = "rope"  # rope | learned
    rope_theta: float = 10000.0
    rope_share: float = 1.0  # of each head's size that rotates
    rope_scaling: RopeScaling | None = None
    mlp: str = "swiglu"  # swiglu | gelu | gelu_tanh
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output matrix
    mlp_bias: bool = False
    qk_norm: bool = False
    tie_embeddings: bool = True
    sliding_window: int = 0  # tokens a token sees, itself included; 0 is all
    full_attention_layers: int = 0  # the first so many layers ignore the sliding window
    parallel_residual: bool = False


def positions_from_mask(attention_mask):
    """(B, T) bool -> (B, T) positions that count real tokens only, so that padding on either side changes nothing."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_(min=0)


class KeyValueCache:
    """Preallocated keys and values of every layer. Row b holds `lengths[b]` tokens from column 0 on, without gaps."""

    def __init__(self, architecture, rows, columns, *, device, dtype):
        shape = (rows, architecture.n_kv_heads, columns, architecture.head_size)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(architecture.n_layers)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(architecture.n_layers)]
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)  # (rows,)
        self.longest = 0  # of the rows in use, known without asking the device
        self.rows = 0  # rows in use: always the first ones

    @property
    def columns(self):
        return self.keys[0].shape[2]

    def extend(self, layer, key, value, *, offset, positions):
        """Stores (b, G, T, S) new tokens of the rows from `offset` on; returns what those rows' queries may look at."""
        rows, _, length, _ = key.shape
        here = slice(offset, offset + rows)
        keys, values = self.keys[layer], self.values[layer]
        if positions is None:  # fresh rows: the new tokens are all there is
            keys[here, :, :length] = key
            values[here, :, :length] = value
            return key, value
        row = torch.arange(offset, offset + rows, device=key.device)[:, None]
        keys[row, :, positions] = key.transpose(1, 2).to(keys.dtype)
        values[row, :, positions] = value.transpose(1, 2).to(values.dtype)
        end = self.longest + length
        return keys[here, :, :end], values[here, :, :end]

    def copy_rows(self, source, target):
        """Row target[i] becomes a copy of row source[i]; both (n,) long, apart from each other."""
        for tensor in (*self.keys, *self.values):
            used = tensor[:, :, : self.longest]
            used[target] = used[source]
        self.lengths[target] = self.lengths[source]

    def fork(self, first, count, copies):
        """Replaces the last `count` rows in use, from row `first` on, by `copies` of each, side by side."""
        end = first + count * copies
        for tensor in (*self.keys, *self.values):
            used = tensor[:, :, : self.longest]
            used[first:end] = used[first : first + count].repeat_interleave(copies, dim=0)
        self.lengths[first:end] = self.lengths[first : first + count].repeat_interleave(copies)
        self.rows = end

    def shrink(self, rows):
        """Only the first `rows` rows stay in use."""
        self.rows = rows
        self.longest = int(self.lengths[:rows].max()) if rows else 0


def rotary_frequencies(size, theta, scaling):
    """(size / 2,) radians a position; on the CPU even where modules are made on the meta device."""
    exponents = torch.arange(0, size, 2, dtype=torch.int64, device="cpu").float() / size
    frequencies = 1.0 / (theta**exponents)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    wavelengths = 2 * math.pi / frequencies
    low = scaling.original_max_positions / scaling.low_freq_factor
    high = scaling.original_max_positions / scaling.high_freq_factor
    smooth = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    blended = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    stretched = torch.where(wavelengths > low, frequencies / scaling.factor, blended)
    return torch.where(wavelengths < high, frequencies, stretched)


class Rotary(nn.Module):
    """Rotary position embedding (arXiv:2104.09864), halves layout as in Hugging Face's Llama."""

    def __init__(self, architecture):
        super().__init__()
        self.size = int(architecture.head_size * architecture.rope_share)
        frequencies = rotary_frequencies(self.size, architecture.rope_theta, architecture.rope_scaling)
        self.register_buffer("frequencies", frequencies, persistent=False)  # (size / 2,)

    def at(self, positions):
        """(B, T) or (T,) positions -> cosine and signed sine, each (..., T, 1, size)."""
        angles = positions.to(torch.float32).unsqueeze(-1) * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        # The sign of rotate-half sits in the sine, so that turning is one multiply, one roll, one multiply-add.
        return torch.cat([cos, cos], -1).unsqueeze(-2), torch.cat([-sin, sin], -1).unsqueeze(-2)

    def rotate(self, heads, cos, sin):
        """heads (B, T, heads, S) turned by their positions; only the first `size` of S turn."""
        if self.size == heads.shape[-1]:
            turned = torch.addcmul(heads * cos, heads.roll(self.size // 2, -1), sin)
            return turned.to(heads.dtype)
        turning, still = heads.split((self.size, heads.shape[-1] - self.size), dim=-1)
        turned = torch.addcmul(turning * cos, turning.roll(self.size // 2, -1), sin)
        return torch.cat([turned.to(heads.dtype), still], dim=-1)


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


def causal_mask(length, device):
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


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
