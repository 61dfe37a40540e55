"""Hugging Face model families: their config.json, and the names and layouts of their tensors.

Reading and writing are one table a family. In it a tensor of ours is a list of theirs, joined along the first axis
(query, key and value; gate and up), each perhaps turned: Conv1D of GPT-2 is transposed, GPT-NeoX interleaves heads.
"""

import dataclasses

import torch

from training.engine.transformer import Architecture, RopeScaling


class FamilyError(ValueError):
    """A model configuration cannot be used. The message is one sentence for people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How one family's checkpoints are written."""

    name: str  # model_type in config.json
    class_prefix: str  # of architectures in config.json, before ForCausalLM
    trunk: str  # prefix of all tensors but the heads
    layers: str  # format with the layer's number
    outer: dict  # our name -> theirs, outside of layers
    inner: dict  # our name in a block -> tuple of theirs, joined
    lm_head: str = "lm_head.weight"
    layout: str = "plain"  # plain | conv1d | interleaved
    ignored: tuple = (".rotary_emb.inv_freq",)  # ends of names of buffers that old files carry

    @property
    def causal_class(self):
        return f"{self.class_prefix}ForCausalLM" if self.name != "gpt2" else "GPT2LMHeadModel"

    @property
    def classification_class(self):
        return f"{self.class_prefix}ForSequenceClassification"


_LLAMA_OUTER = {"embedding.weight": "embed_tokens.weight", "norm.weight": "norm.weight"}
_LLAMA_INNER = {
    "attention_norm.weight": ("input_layernorm.weight",),
    "attention.qkv.weight": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "attention.qkv.bias": ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    "attention.output.weight": ("self_attn.o_proj.weight",),
    "attention.output.bias": ("self_attn.o_proj.bias",),
    "attention.query_norm.weight": ("self_attn.q_norm.weight",),
    "attention.key_norm.weight": ("self_attn.k_norm.weight",),
    "mlp_norm.weight": ("post_attention_layernorm.weight",),
    "mlp.up.weight": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "mlp.up.bias": ("mlp.gate_proj.bias", "mlp.up_proj.bias"),
    "mlp.down.weight": ("mlp.down_proj.weight",),
    "mlp.down.bias": ("mlp.down_proj.bias",),
}


def _llama_like(name, class_prefix):
    return Family(
        name=name,
        class_prefix=class_prefix,
        trunk="model.",
        layers="layers.{}.",
        outer=_LLAMA_OUTER,
        inner=_LLAMA_INNER,
    )


def _both(ours, theirs):
    return {f"{ours}.{part}": (f"{theirs}.{part}",) for part in ("weight", "bias")}


_GPT2 = Family(
    name="gpt2",
    class_prefix="GPT2",
    trunk="transformer.",
    layers="h.{}.",
    outer={
        "embedding.weight": "wte.weight",
        "position_embedding.weight": "wpe.weight",
        "norm.weight": "ln_f.weight",
        "norm.bias": "ln_f.bias",
    },
    inner={
        **_both("attention_norm", "ln_1"),
        **_both("attention.qkv", "attn.c_attn"),
        **_both("attention.output", "attn.c_proj"),
        **_both("mlp_norm", "ln_2"),
        **_both("mlp.up", "mlp.c_fc"),
        **_both("mlp.down", "mlp.c_proj"),
    },
    layout="conv1d",
    ignored=(".attn.bias", ".attn.masked_bias"),
)

_GPT_NEOX = Family(
    name="gpt_neox",
    class_prefix="GPTNeoX",
    trunk="gpt_neox.",
    layers="layers.{}.",
    outer={
        "embedding.weight": "embed_in.weight",
        "norm.weight": "final_layer_norm.weight",
        "norm.bias": "final_layer_norm.bias",
    },
    inner={
        **_both("attention_norm", "input_layernorm"),
        **_both("attention.qkv", "attention.query_key_value"),
        **_both("attention.output", "attention.dense"),
        **_both("mlp_norm", "post_attention_layernorm"),
        **_both("mlp.up", "mlp.dense_h_to_4h"),
        **_both("mlp.down", "mlp.dense_4h_to_h"),
    },
    lm_head="embed_out.weight",
    layout="interleaved",
    ignored=(".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"),
)

FAMILIES = {
    family.name: family
    for family in (
        _llama_like("llama", "Llama"),
        _llama_like("mistral", "Mistral"),
        _llama_like("qwen2", "Qwen2"),
        _llama_like("qwen3", "Qwen3"),
        _GPT2,
        _GPT_NEOX,
    )
}


def from_scratch(model, vocab_size):
    """The Architecture of a new Llama-family policy. model: config.ModelConfig."""
    return Architecture(
        family="llama",
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        n_layers=model.n_layers,
        n_heads=model.n_heads,
        n_kv_heads=model.n_kv_heads,
        head_size=model.hidden_size // model.n_heads,
        max_positions=model.max_positions,
        norm_eps=model.norm_eps,
        rope_theta=model.rope_theta,
        tie_embeddings=model.tie_embeddings,
    )


def family_of(config):
    """The Family that a config.json names. Raises FamilyError with the list of those that are supported."""
    name = config.get("model_type")
    if name not in FAMILIES:
        raise FamilyError(f"The model family {name!r} is not supported; supported are: {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[name]


def read_config(config):
    """config.json as a dictionary -> Architecture. Raises FamilyError."""
    name = family_of(config).name
    reader = {"gpt2": _read_gpt2, "gpt_neox": _read_gpt_neox}.get(name, _read_llama_like)
    architecture = reader(_Config(config), name)
    if architecture.n_heads % architecture.n_kv_heads:
        raise FamilyError(
            f"config.json has {architecture.n_heads} attention heads, no multiple of its "
            f"{architecture.n_kv_heads} key-value heads."
        )
    if architecture.positions == "rope" and int(architecture.head_size * architecture.rope_share) % 2:
        raise FamilyError(f"config.json gives heads of {architecture.head_size}; rotary embeddings need an even size.")
    return architecture


def write_config(architecture):
    """Architecture -> what its family's config.json says of it."""
    writer = {"gpt2": _write_gpt2, "gpt_neox": _write_gpt_neox}.get(architecture.family, _write_llama_like)
    return {"model_type": architecture.family, **writer(architecture)}


class _Config:
    """Checked reading of a config.json."""

    def __init__(self, values):
        self.values = values

    def whole(self, *names, default=None, most=10_000_000):
        value = self.first(*names, default=default)
        if type(value) is not int or not 1 <= value <= most:
            raise FamilyError(f"config.json has {names[0]}={value!r}; it must be a whole number from 1 to {most}.")
        return value

    def number(self, *names, default):
        value = self.first(*names, default=default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise FamilyError(f"config.json has {names[0]}={value!r}; it must be a number greater than 0.")
        return float(value)

    def flag(self, name, default):
        return bool(self.first(name, default=default))

    def first(self, *names, default=None):
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def one_of(self, name, choices, default):
        value = self.first(name, default=default)
        if value not in choices:
            raise FamilyError(f"config.json has {name}={value!r}, which is not supported; known: {', '.join(choices)}.")
        return value


def _read_llama_like(config, name):
    config.one_of("hidden_act", ("silu", "swish"), "silu")
    heads = config.whole("num_attention_heads", most=4096)
    hidden = config.whole("hidden_size", most=1_000_000)
    theta, scaling = _read_rope(config)
    bias = config.flag("attention_bias", False)
    window, full_layers = 0, 0
    layers = config.whole("num_hidden_layers", most=1000)
    if name == "mistral" and config.first("sliding_window") is not None:
        window = config.whole("sliding_window")
    if name in ("qwen2", "qwen3") and config.flag("use_sliding_window", False):
        window = config.whole("sliding_window", default=4096)
        full_layers = min(config.first("max_window_layers", default=28), layers)
    return Architecture(
        family=name,
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.whole("intermediate_size"),
        n_layers=layers,
        n_heads=heads,
        n_kv_heads=config.whole("num_key_value_heads", default=heads, most=4096),
        head_size=config.whole("head_dim", default=128 if name == "qwen3" else hidden // heads, most=65536),
        max_positions=config.whole("max_position_embeddings", default=2048, most=100_000_000),
        norm_eps=config.number("rms_norm_eps", default=1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=name == "qwen2" or bias,
        output_bias=name != "qwen2" and bias,
        mlp_bias=name == "llama" and config.flag("mlp_bias", False),
        qk_norm=name == "qwen3",
        tie_embeddings=config.flag("tie_word_embeddings", False),
        sliding_window=window,
        full_attention_layers=full_layers,
    )


def _read_rope(config):
    """(theta, RopeScaling or None) from rope_parameters, or from rope_theta and rope_scaling of older files."""
    values = config.first("rope_parameters", "rope_scaling", default={})
    if not isinstance(values, dict):
        raise FamilyError("config.json has rope_parameters that are no object.")
    rope = _Config(values)
    theta = rope.first("rope_theta", default=config.first("rope_theta", "rotary_emb_base", default=10000.0))
    theta = _Config({"rope_theta": theta}).number("rope_theta", default=10000.0)
    kind = rope.first("rope_type", "type", default="default")
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise FamilyError(
            f"config.json has rope_type={kind!r}, which is not supported; known: default, linear, llama3."
        )
    factor = rope.number("factor", default=1.0)
    if kind == "linear":
        return theta, RopeScaling(kind="linear", factor=factor)
    return theta, RopeScaling(
        kind="llama3",
        factor=factor,
        low_freq_factor=rope.number("low_freq_factor", default=1.0),
        high_freq_factor=rope.number("high_freq_factor", default=4.0),
        original_max_positions=rope.whole("original_max_position_embeddings", default=8192, most=100_000_000),
    )


def _write_rope(architecture):
    scaling = architecture.rope_scaling
    values = {"rope_theta": architecture.rope_theta, "rope_type": scaling.kind if scaling else "default"}
    if scaling:
        values["factor"] = scaling.factor
    if scaling and scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return values


def _write_llama_like(a):
    values = {
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": a.max_positions,
        "rms_norm_eps": a.norm_eps,
        "rope_theta": a.rope_theta,  # where older readers look
        "rope_parameters": _write_rope(a),
        "attention_dropout": 0.0,
        "tie_word_embeddings": a.tie_embeddings,
    }
    if a.family in ("llama", "qwen3"):
        values["attention_bias"] = a.qkv_bias
    if a.family == "llama":
        values["mlp_bias"] = a.mlp_bias
    if a.family == "mistral":
        values["sliding_window"] = a.sliding_window or None
    if a.family in ("qwen2", "qwen3"):
        values["use_sliding_window"] = bool(a.sliding_window)
        values["sliding_window"] = a.sliding_window or None
        values["max_window_layers"] = a.full_attention_layers if a.sliding_window else a.n_layers
    return values


def _read_gpt2(config, name):
    for key in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        if config.flag(key, False):
            raise FamilyError(f"config.json has {key}=true, which is not supported.")
    act = config.one_of("activation_function", ("gelu_new", "gelu_pytorch_tanh", "gelu"), "gelu_new")
    heads, hidden = config.whole("n_head", most=4096), config.whole("n_embd", most=1_000_000)
    return Architecture(
        family=name,
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.whole("n_inner", default=4 * hidden),
        n_layers=config.whole("n_layer", most=1000),
        n_heads=heads,
        n_kv_heads=heads,
        head_size=hidden // heads,
        max_positions=config.whole("n_positions", default=1024),
        norm="layer",
        norm_eps=config.number("layer_norm_epsilon", default=1e-5),
        positions="learned",
        mlp="gelu" if act == "gelu" else "gelu_tanh",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_embeddings=config.flag("tie_word_embeddings", True),
    )


def _write_gpt2(a):
    return {
        "vocab_size": a.vocab_size,
        "n_embd": a.hidden_size,
        "n_inner": a.intermediate_size,
        "n_layer": a.n_layers,
        "n_head": a.n_heads,
        "n_positions": a.max_positions,
        "layer_norm_epsilon": a.norm_eps,
        "activation_function": "gelu" if a.mlp == "gelu" else "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": a.tie_embeddings,
    }


def _read_gpt_neox(config, name):
    act = config.one_of("hidden_act", ("gelu", "gelu_new", "gelu_fast"), "gelu")
    heads, hidden = config.whole("num_attention_heads", most=4096), config.whole("hidden_size", most=1_000_000)
    theta, scaling = _read_rope(config)
    rope = config.first("rope_parameters", default={})
    share = rope.get("partial_rotary_factor") or config.first("partial_rotary_factor", "rotary_pct", default=0.25)
    bias = config.flag("attention_bias", True)
    return Architecture(
        family=name,
        vocab_size=config.whole("vocab_size"),
        hidden_size=hidden,
        intermediate_size=config.whole("intermediate_size"),
        n_layers=config.whole("num_hidden_layers", most=1000),
        n_heads=heads,
        n_kv_heads=heads,
        head_size=hidden // heads,
        max_positions=config.whole("max_position_embeddings", default=2048, most=100_000_000),
        norm="layer",
        norm_eps=config.number("layer_norm_eps", default=1e-5),
        rope_theta=theta,
        rope_share=_Config({"rotary_pct": share}).number("rotary_pct", default=0.25),
        rope_scaling=scaling,
        mlp="gelu" if act == "gelu" else "gelu_tanh",
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=True,
        tie_embeddings=config.flag("tie_word_embeddings", False),
        parallel_residual=config.flag("use_parallel_residual", True),
    )


def _write_gpt_neox(a):
    return {
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "max_position_embeddings": a.max_positions,
        "layer_norm_eps": a.norm_eps,
        "hidden_act": "gelu" if a.mlp == "gelu" else "gelu_new",
        "rotary_pct": a.rope_share,
        "rotary_emb_base": a.rope_theta,
        "rope_parameters": {**_write_rope(a), "partial_rotary_factor": a.rope_share},
        "attention_bias": a.qkv_bias,
        "use_parallel_residual": a.parallel_residual,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "tie_word_embeddings": a.tie_embeddings,
    }


def tensor_map(architecture, names):
    """Our tensor names -> (their names, sizes along the first axis to split into or None).

    names: those of a Transformer's state; what they lack (biases, say) the files lack too.
    """
    family = FAMILIES[architecture.family]
    a = architecture
    splits = {
        "attention.qkv": [a.n_heads * a.head_size, a.n_kv_heads * a.head_size, a.n_kv_heads * a.head_size],
        "mlp.up": [a.intermediate_size, a.intermediate_size],
    }
    found = {}
    for name in names:
        if name == "lm_head.weight":
            if not a.tie_embeddings:
                found[name] = ((family.lm_head,), None)
        elif name.startswith("blocks."):
            _, number, inner = name.split(".", 2)
            theirs = tuple(family.trunk + family.layers.format(number) + part for part in family.inner[inner])
            found[name] = (theirs, splits[inner.rpartition(".")[0]] if len(theirs) > 1 else None)
        else:
            found[name] = ((family.trunk + family.outer[name],), None)
    return found


def to_files(architecture, name, tensor):
    """Our tensor in their layout, before splitting."""
    return _turn(architecture, name, tensor, inward=False)


def from_files(architecture, name, tensor):
    """Their tensor, joined, in our layout."""
    return _turn(architecture, name, tensor, inward=True)


def _turn(architecture, name, tensor, *, inward):
    layout = FAMILIES[architecture.family].layout
    matrix = name.endswith((".qkv.weight", ".output.weight", ".up.weight", ".down.weight"))
    if layout == "conv1d" and matrix:
        return tensor.t().contiguous()
    if layout == "interleaved" and ".qkv." in name:
        a = architecture
        # Theirs: for each head its query, key, value. Ours: all queries, all keys, all values.
        outer, inner = (a.n_heads, 3) if inward else (3, a.n_heads)
        return torch.reshape(
            tensor.view(outer, inner, a.head_size, *tensor.shape[1:]).transpose(0, 1), tensor.shape
        ).contiguous()
    return tensor
