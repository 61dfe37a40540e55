"""Every family against the transformers library: theirs read by us, ours read by them, in float32 to 1e-5."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from training.engine import checkpoint, data, packing
from training.engine.heads import RewardModel, ScalarHead

SIZES = {
    "small": {"hidden": 32, "layers": 2, "heads": 4, "groups": 2, "wide": 48, "vocab": 64},
    "odd": {"hidden": 72, "layers": 3, "heads": 6, "groups": 3, "wide": 100, "vocab": 97},
    "one key-value head": {"hidden": 64, "layers": 1, "heads": 8, "groups": 1, "wide": 24, "vocab": 33},
}
LENGTHS = {"one token": [1], "short": [3, 7, 1], "long": [40, 64, 17]}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


def llama_shape(size):
    return {
        "vocab_size": size["vocab"],
        "hidden_size": size["hidden"],
        "intermediate_size": size["wide"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["groups"],
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }


def gpt2(size, **values):
    return transformers.GPT2Config(
        vocab_size=size["vocab"], n_embd=size["hidden"], n_layer=size["layers"], n_head=size["heads"], n_positions=64,
        **values,
    )  # fmt: skip


def gpt_neox(size, **values):
    shape = llama_shape(size)
    del shape["num_key_value_heads"]
    return transformers.GPTNeoXConfig(**{**shape, "rotary_pct": 0.5, **values})


def llama_like(cls, **values):
    return lambda size: cls(**{**llama_shape(size), **values})


PEERS = {
    "llama": llama_like(transformers.LlamaConfig),
    "llama, tied": llama_like(transformers.LlamaConfig, tie_word_embeddings=True),
    "llama, biases": llama_like(transformers.LlamaConfig, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama 3 positions": llama_like(transformers.LlamaConfig, rope_parameters=LLAMA3),
    "llama, linear positions": llama_like(transformers.LlamaConfig, rope_parameters=LINEAR),
    "mistral": llama_like(transformers.MistralConfig, sliding_window=4),
    "mistral, no window": llama_like(transformers.MistralConfig, sliding_window=None, head_dim=16),
    "qwen2": llama_like(transformers.Qwen2Config),
    "qwen2, tied": llama_like(transformers.Qwen2Config, tie_word_embeddings=True),
    "qwen2, windows": llama_like(transformers.Qwen2Config, **WINDOWS),
    "qwen3": llama_like(transformers.Qwen3Config, head_dim=16),
    "qwen3, windows and biases": llama_like(transformers.Qwen3Config, head_dim=16, attention_bias=True, **WINDOWS),
    "gpt2": gpt2,
    "gpt2, untied, exact gelu": lambda size: gpt2(size, tie_word_embeddings=False, activation_function="gelu"),
    "gpt_neox": gpt_neox,
    "gpt_neox, serial": lambda size: gpt_neox(size, use_parallel_residual=False),
    "gpt_neox, tied, no biases": lambda size: gpt_neox(size, tie_word_embeddings=True, attention_bias=False),
}


def randomised(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * (0.3 if parameter.dim() > 1 else 0.1) + (parameter == 1))
    return model.eval()


def batch(lengths, vocab_size, side):
    generator = torch.Generator().manual_seed(len(lengths))
    rows = [torch.randint(1, vocab_size, (length,), generator=generator).tolist() for length in lengths]
    return data.pad_batch(rows, 0, side=side)


def places(mask):
    """Positions that count real tokens, by a loop where ours is a cumulative sum."""
    rows = [[max(sum(row[: place + 1]) - 1, 0) for place in range(len(row))] for row in mask.long().tolist()]
    return torch.tensor(rows)


@torch.no_grad()
def assert_same_logits(policy, peer, vocab_size):
    """Largest difference, relative to the largest logit, over lengths: padded on either side, packed and bare."""
    for lengths in LENGTHS.values():
        for side in ("left", "right"):
            ids, mask = batch(lengths, vocab_size, side)
            expected = peer(ids, attention_mask=mask.long(), position_ids=places(mask)).logits[mask]
            found = policy(ids, mask)[mask]
            assert (found - expected).abs().max() < 1e-5 * expected.abs().max(), (lengths, side)
        packed = policy.project(policy.hidden_packed(ids[mask], packing.Layout(lengths)))
        assert (packed - expected).abs().max() < 1e-5 * expected.abs().max(), lengths
        bare = ids[:1, : lengths[0]]
        expected = peer(bare).logits
        assert (policy(bare) - expected).abs().max() < 1e-5 * expected.abs().max(), lengths


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PEERS)
def test_it_reads_and_writes_each_family_as_the_transformers_library_does(name, size, story_tokenizer, tmp_path):
    shards = {"max_shard_size": "20KB"} if size == "odd" else {}
    peer = randomised(transformers.AutoModelForCausalLM.from_config(PEERS[name](SIZES[size])))
    peer.save_pretrained(tmp_path / "theirs", **shards)
    assert (tmp_path / "theirs/model.safetensors.index.json").exists() == bool(shards)
    policy = checkpoint.load_policy(tmp_path / "theirs")
    assert_same_logits(policy, peer, SIZES[size]["vocab"])

    small = {"shard_bytes": 20_000} if shards else {}
    checkpoint.save_policy(policy, story_tokenizer, tmp_path / "ours", **small)
    assert (tmp_path / "ours/model.safetensors.index.json").exists() == bool(shards)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(peer)
    assert not any(report.values())
    for one, other in zip(again.state_dict().values(), peer.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert_same_logits(policy, again, SIZES[size]["vocab"])
    assert checkpoint.load_policy(tmp_path / "ours").config == policy.config


@pytest.mark.parametrize("name", PEERS)
def test_it_scores_as_the_transformers_library_does(name, story_tokenizer, tmp_path):
    config = PEERS[name](SIZES["small"])
    config.num_labels, config.pad_token_id = 1, 0
    peer = randomised(transformers.AutoModelForSequenceClassification.from_config(config))
    peer.save_pretrained(tmp_path / "theirs")
    judge = checkpoint.load_reward_model(tmp_path / "theirs")
    ids, mask = batch([3, 9, 1], 64, "right")
    with torch.no_grad():
        expected = peer(ids, attention_mask=mask.long(), position_ids=places(mask)).logits[:, 0]
        torch.testing.assert_close(judge(ids, mask), expected, atol=1e-5, rtol=1e-5)
        left, left_mask = batch([3, 9, 1], 64, "left")
        torch.testing.assert_close(judge(left, left_mask), expected, atol=1e-5, rtol=1e-5)

    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "ours", shard_bytes=20_000)
    again, report = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert type(again) is type(peer)
    assert not any(report.values())
    again.config.pad_token_id = 0
    with torch.no_grad():
        found = again(ids, attention_mask=mask.long(), position_ids=places(mask)).logits[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_it_writes_scores_less_their_shift(make_policy, story_tokenizer, tmp_path):
    head = ScalarHead(32, generator=torch.Generator().manual_seed(0))
    judge = RewardModel(make_policy(story_tokenizer.vocab_size), head, score_shift=0.25).eval()
    judge.fold(2.0, 0.5)  # 2 (s + 0.25) + 0.5 = 2 s + 1
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "rm")
    peer = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    ids, mask = batch([4, 2], 64, "right")
    again = checkpoint.load_reward_model(tmp_path / "rm")
    with torch.no_grad():
        expected = peer(ids, attention_mask=mask.long()).logits[:, 0] + 1.0
        torch.testing.assert_close(again(ids, mask), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(again.values(ids, mask)[[0, 1], [3, 1]], expected, atol=1e-5, rtol=0)


def older_llama(config):
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    return {**config, "rope_theta": theta, "rope_scaling": {"type": rope.pop("rope_type"), **rope}}


def older_neox(config):
    rope = config.pop("rope_parameters")
    return {**config, "rotary_emb_base": rope["rope_theta"], "rotary_pct": rope["partial_rotary_factor"]}


def older_gpt2(config):
    return {key: value for key, value in config.items() if key not in ("tie_word_embeddings", "n_inner")}


OLDER = {"llama 3 positions": older_llama, "gpt_neox": older_neox, "gpt2": older_gpt2}


@pytest.mark.parametrize("name", OLDER)
def test_it_reads_older_configurations(name, tmp_path):
    peer = randomised(transformers.AutoModelForCausalLM.from_config(PEERS[name](SIZES["small"])))
    peer.save_pretrained(tmp_path)
    config = OLDER[name](json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert_same_logits(checkpoint.load_policy(tmp_path), peer, 64)


def test_it_reads_checkpoints_that_leave_the_trunks_name_out(tmp_path):
    """As gpt2's own does; and with the buffers that old ones carry."""
    peer = randomised(transformers.AutoModelForCausalLM.from_config(gpt2(SIZES["small"])))
    peer.save_pretrained(tmp_path)
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(tmp_path / "model.safetensors").items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same_logits(checkpoint.load_policy(tmp_path), peer, 64)
