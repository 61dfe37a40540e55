"""The config.json of each family: read into an Architecture, strictly, and written from one.

What would change the arithmetic and is not supported is refused, never passed over.
"""

from training.engine import families
from training.engine.architecture import Architecture, RopeScaling


def read_config(config):
    """config.json as a dictionary -> Architecture. Raises families.FamilyError."""
    name = families.family_of(config).name
    reader = {"gpt2": _read_gpt2, "gpt_neox": _read_gpt_neox}.get(name, _read_llama_like)
    architecture = reader(_Config(config), name)
    if architecture.n_heads % architecture.n_kv_heads:
        raise families.FamilyError(
            f"config.json has {architecture.n_heads} attention heads, no multiple of its "
            f"{architecture.n_kv_heads} key-value heads."
        )
    if architecture.positions == "rope" and int(architecture.head_size * architecture.rope_share) % 2:
        raise families.FamilyError(
            f"config.json gives heads of {architecture.head_size}; rotary embeddings need an even size."
        )
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
            raise families.FamilyError(
                f"config.json has {names[0]}={value!r}; it must be a whole number from 1 to {most}."
            )
        return value

    def number(self, *names, default):
        value = self.first(*names, default=default)
        if type(value) not in (int, float) or not 0 < value < float("inf"):
            raise families.FamilyError(f"config.json has {names[0]}={value!r}; it must be a number greater than 0.")
        return float(value)

    def flag(self, name, default):
        return bool(self.first(name, default=default))

    def first(self, *names, default=None):
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)

    def one_of(self, name, choices, default):
        value = self.first(name, default=default)
        if value not in choices:
            raise families.FamilyError(
                f"config.json has {name}={value!r}, which is not supported; known: {', '.join(choices)}."
            )
        return value


def _read_llama_like(config, name):
    config.one_of("hidden_act", ("silu", "swish"), "silu")
    heads = config.whole("num_attention_heads", most=4096)
    hidden = config.whole("hidden_size", most=1_000_000)
    theta, scaling = _read_rope(config, name)
    bias = config.flag("attention_bias", False)
    layers = config.whole("num_hidden_layers", most=1000)
    window, full_layers = _read_windows(config, name, layers)
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


def _read_windows(config, name, layers):
    """(tokens a token sees, or 0 for all; how many of the first layers see all)."""
    if name == "mistral" and config.first("sliding_window") is not None:
        return config.whole("sliding_window"), 0
    if name not in ("qwen2", "qwen3"):
        return 0, 0
    window = config.whole("sliding_window", default=4096) if config.flag("use_sliding_window", False) else 0
    full = config.first("max_window_layers", default=28)
    if type(full) is not int or full < 0:
        raise families.FamilyError(
            f"config.json has max_window_layers={full!r}; it must be a whole number, at least 0."
        )
    full = min(full, layers) if window else layers
    kinds = ["full_attention"] * full + ["sliding_attention"] * (layers - full)
    named = config.first("layer_types", default=kinds)
    full = sum(kind == "full_attention" for kind in named) if isinstance(named, list) else 0
    if named != ["full_attention"] * full + ["sliding_attention"] * (layers - full) or (full < layers and not window):
        raise families.FamilyError(
            "config.json mixes full and sliding attention in its layer_types; supported are layers of full attention "
            "followed by layers of sliding attention."
        )
    return (window, full) if full < layers else (0, 0)


def _read_rope(config, name):
    """(theta, RopeScaling or None) from rope_parameters, or from rope_theta and rope_scaling of older files."""
    values = config.first("rope_parameters", "rope_scaling", default={})
    if not isinstance(values, dict):
        raise families.FamilyError("config.json has rope_parameters that are no object.")
    rope = _Config(values)
    theta = rope.first("rope_theta", default=config.first("rope_theta", "rotary_emb_base", default=10000.0))
    theta = _Config({"rope_theta": theta}).number("rope_theta", default=10000.0)
    if name != "gpt_neox" and rope.first("partial_rotary_factor", default=1) != 1:
        raise families.FamilyError("config.json rotates a part of each head only, which this family does not do here.")
    kind = rope.first("rope_type", "type", default="default")
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise families.FamilyError(
            f"config.json has rope_type={kind!r}, which is not supported; known: default, linear, llama3."
        )
    factor = rope.number("factor", default=None)  # without one, stretching would be a guess
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
            raise families.FamilyError(f"config.json has {key}=true, which is not supported.")
    if not config.flag("scale_attn_weights", True):
        raise families.FamilyError("config.json has scale_attn_weights=false, which is not supported.")
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
    theta, scaling = _read_rope(config, name)
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
