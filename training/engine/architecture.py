"""The shape and arithmetic of a decoder."""

import dataclasses


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
