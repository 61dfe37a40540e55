"""Hugging Face model families: the names and layouts of their tensors. (Their config.json: family_config.py.)

Reading and writing are one table a family. In it a tensor of ours is a list of theirs, joined along the first axis
(query, key and value; gate and up), each perhaps turned: Conv1D of GPT-2 is transposed, GPT-NeoX interleaves heads.
"""

import dataclasses

import torch

from training.engine.architecture import Architecture


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
    """The Architecture of a new Llama-family policy. model: sections.ModelConfig."""
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
