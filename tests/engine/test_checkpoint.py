"""Checkpoints: both ways with the transformers library, whole or not at all, and hostile ones refused in a sentence."""

import json
import os
import pickle
import struct

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from training.engine import checkpoint
from training.engine.checkpoint import CheckpointError
from training.engine.heads import RewardModel, ScalarHead

IDS = torch.tensor([[5, 9, 11, 4, 30, 31, 7, 8, 12, 3]])
COMMON = {"vocab_size": 64, "tie_word_embeddings": False}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**COMMON, **WIDTHS, "num_key_value_heads": 2, "max_position_embeddings": 64}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
PEERS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama, biases": lambda: transformers.LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True, head_dim=16),
    "llama, tied": lambda: transformers.LlamaConfig(**{**GROUPED, "tie_word_embeddings": True}),
    "llama 3 positions": lambda: transformers.LlamaConfig(**GROUPED, rope_parameters=LLAMA3),
    "llama, linear positions": lambda: transformers.LlamaConfig(
        **GROUPED, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    ),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=4),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen2, windows": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=4, max_window_layers=1
    ),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**COMMON, **WIDTHS, max_position_embeddings=64),
    "gpt_neox, sequential": lambda: transformers.GPTNeoXConfig(
        **COMMON, **WIDTHS, max_position_embeddings=64, use_parallel_residual=False
    ),
}


def peer_model(name):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(PEERS[name]()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1) + (parameter == 1))
    return model


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("name", PEERS)
def test_it_reads_and_writes_each_family_as_the_transformers_library_does(name, story_tokenizer, tmp_path):
    oracle = peer_model(name)
    oracle.save_pretrained(tmp_path / "theirs")
    policy = checkpoint.load_policy(tmp_path / "theirs")
    with torch.no_grad():
        expected = oracle(IDS).logits
        assert relative_error(policy(IDS), expected) < 1e-5
    checkpoint.save_policy(policy, story_tokenizer, tmp_path / "ours")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(oracle)
    assert not any(report.values())
    with torch.no_grad():
        assert relative_error(again(IDS).logits, expected) < 1e-5
    assert checkpoint.load_policy(tmp_path / "ours").config == policy.config


def test_it_reads_shards_and_older_configurations(tmp_path):
    oracle = peer_model("llama 3 positions")
    oracle.save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.no_grad():
        assert relative_error(checkpoint.load_policy(tmp_path)(IDS), oracle(IDS).logits) < 1e-5


def make_reward_model(policy, *, shift=0.25, seed=0):
    head = ScalarHead(policy.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    return RewardModel(policy, head, score_shift=shift).eval()


def test_it_writes_a_reward_model_that_the_transformers_library_scores_with(make_policy, story_tokenizer, tmp_path):
    reward_model = make_reward_model(make_policy(story_tokenizer.vocab_size))
    reward_model.fold(2.0, 0.5)  # 2 (s + 0.25) + 0.5 = 2 s + 1
    checkpoint.save_reward_model(reward_model, story_tokenizer, tmp_path / "rm")
    oracle = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    pad = story_tokenizer.pad_id
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, pad, pad]])
    mask = ids != pad
    again = checkpoint.load_reward_model(tmp_path / "rm")
    with torch.no_grad():
        expected = oracle(ids, attention_mask=mask).logits[:, 0] + 1.0
        assert torch.allclose(reward_model(ids, mask), expected, atol=1e-5)
        assert torch.allclose(again(ids, mask), expected, atol=1e-5)
        assert torch.allclose(again.values(ids, mask)[[0, 1], [3, 1]], expected, atol=1e-5)
        left = torch.tensor([[5, 6, 7, 8], [pad, pad, 9, 10]])
        assert torch.allclose(again(left, left != pad), expected, atol=1e-5)


def test_it_keeps_an_ensemble_as_one_artifact(make_policy, story_tokenizer, tmp_path):
    members = [make_reward_model(make_policy(), seed=seed) for seed in range(3)]
    digest = checkpoint.save_reward_model(members, story_tokenizer, tmp_path / "rm")
    again = checkpoint.load_reward_models(tmp_path / "rm")
    assert len(again) == 3
    for one, other in zip(members, again, strict=True):
        assert torch.equal(one(IDS), other(IDS))
    assert checkpoint.verify(tmp_path / "rm") == digest
    assert checkpoint.load_tokenizer_of(tmp_path / "rm").encode("a fox") == story_tokenizer.encode("a fox")


def test_it_starts_the_head_at_the_papers_deviation():
    head = ScalarHead(8191, generator=torch.Generator().manual_seed(0))
    assert head.weight.std().item() == pytest.approx(1 / 8192**0.5, rel=0.05)
    assert not ScalarHead(16, zero=True).weight.any()


def test_it_rounds_to_bfloat16_when_asked(make_policy, story_tokenizer, tmp_path):
    policy = make_policy()
    checkpoint.save_policy(policy, story_tokenizer, tmp_path / "p", dtype="bfloat16")
    again = checkpoint.load_policy(tmp_path / "p")
    for one, other in zip(policy.parameters(), again.parameters(), strict=True):
        assert other.dtype is torch.float32
        assert torch.equal(one.bfloat16().float(), other)


@pytest.fixture
def saved(make_policy, story_tokenizer, tmp_path):
    path = tmp_path / "policy"
    checkpoint.save_policy(make_policy(vocab_size=story_tokenizer.vocab_size), story_tokenizer, path)
    return path


def test_it_names_a_checkpoint_by_its_contents(saved, make_policy, story_tokenizer, tmp_path):
    same = checkpoint.save_policy(make_policy(vocab_size=story_tokenizer.vocab_size), story_tokenizer, tmp_path / "b")
    assert same == checkpoint.digest(saved) == checkpoint.verify(saved)
    other = make_policy(vocab_size=story_tokenizer.vocab_size, seed=1)
    assert checkpoint.save_policy(other, story_tokenizer, tmp_path / "c") != same


def test_it_leaves_the_old_checkpoint_when_a_save_breaks(saved, make_policy, story_tokenizer, monkeypatch):
    before = checkpoint.digest(saved)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    for step in ("_write_tensors", "_make_manifest", "_replace_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, step, full_disk)
            with pytest.raises(CheckpointError, match=r"cannot be written.*No space left.*free some disk space"):
                checkpoint.save_policy(make_policy(seed=2), story_tokenizer, saved)
        assert checkpoint.verify(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


def test_it_replaces_a_checkpoint_of_the_same_name(saved, make_policy, story_tokenizer):
    digest = checkpoint.save_policy(make_policy(seed=2), story_tokenizer, saved)
    assert checkpoint.verify(saved) == digest


def rewrite_manifest(path):
    """The manifest that someone makes who changes a file and wants it believed."""
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_text(json.dumps(checkpoint._make_manifest(path, "policy")))


def header_only(length, text=b"{}"):
    return struct.pack("<Q", length) + text


def bare_header(entries, payload=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + payload


FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE_WEIGHTS = {
    "a pickle": (pickle.dumps({"a": 1}), "pickle or a zip"),
    "empty": (b"", "header is damaged"),
    "absurd header length": (header_only(2**64 - 1), "header is damaged"),
    "header beyond the file": (header_only(1000), "header is damaged"),
    "no JSON": (header_only(2, b"{x"), "not a sound safetensors file"),
    "overlapping offsets": (bare_header({"a": FLOAT, "b": FLOAT}, b"\0" * 4), "not a sound safetensors file"),
    "offsets beyond the end": (
        bare_header({"a": {**FLOAT, "data_offsets": [0, 400], "shape": [100]}}, b"\0" * 4),
        "not a sound safetensors file",
    ),
    "shape product overflow": (
        bare_header({"a": {**FLOAT, "shape": [2**33, 2**33]}}, b"\0" * 4),
        "not a sound safetensors file",
    ),
    "100,000 tensors": (
        bare_header({str(n): {**FLOAT, "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)}),
        "holds 100000 tensors, more than",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_WEIGHTS)
def test_it_refuses_hostile_weights(saved, name):
    content, reason = HOSTILE_WEIGHTS[name]
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        checkpoint.load_policy(saved)
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(saved)


def test_it_refuses_weights_that_are_not_finite(saved):
    tensors = load_file(saved / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, saved / "model.safetensors")
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=r"not finite \(norm.weight\)"):
        checkpoint.verify(saved)


@pytest.mark.parametrize("change", ["missing", "misshapen", "extra"])
def test_it_refuses_tensors_that_do_not_fit(saved, change):
    tensors = load_file(saved / "model.safetensors")
    if change == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif change == "misshapen":
        tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    else:
        tensors["model.layers.9.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, saved / "model.safetensors")
    rewrite_manifest(saved)
    words = {"missing": "lacks the tensor", "misshapen": "does not fit its config", "extra": "family does not have"}
    with pytest.raises(CheckpointError, match=words[change]):
        checkpoint.load_policy(saved)


def test_it_refuses_missing_extra_and_linked_files(saved, tmp_path):
    (saved / "more.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds more.safetensors, which its manifest does not name"):
        checkpoint.load_policy(saved)
    (saved / "more.safetensors").unlink()
    os.rename(saved / "model.safetensors", tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"lacks model.safetensors"):
        checkpoint.load_policy(saved)
    (saved / "model.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link"):
        checkpoint.load_policy(saved)
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is a link"):
        checkpoint.load_policy(saved)


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b", "a\\b", "./config.json"])
def test_it_refuses_a_manifest_that_leaves_its_directory(saved, name):
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="leaves its directory"):
        checkpoint.load_policy(saved)


def test_it_refuses_a_shard_outside_its_directory(saved):
    index = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    os.rename(saved / "model.safetensors", saved.parent / "model.safetensors")
    (saved / "model.safetensors.index.json").write_text(json.dumps(index))
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="no file of its own directory"):
        checkpoint.load_policy(saved)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "other"}', "[" * 100_000])
def test_it_refuses_a_broken_manifest(saved, text):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load_policy(saved)


def test_it_ignores_code_that_a_checkpoint_names_and_says_so(saved, caplog):
    config = json.loads((saved / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Model"}
    (saved / "config.json").write_text(json.dumps(config))
    rewrite_manifest(saved)
    checkpoint.load_policy(saved)
    assert "names code of its own (auto_map); it is ignored" in caplog.text


HOSTILE_CONFIGS = {
    "another family": ({"model_type": "bert"}, "supported are: gpt2, gpt_neox, llama"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    "too many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "more layers than tensors": ({"num_hidden_layers": 900}, "it is not whole"),
    "text for a number": ({"hidden_size": "32"}, "hidden_size='32'"),
    "odd heads": ({"num_key_value_heads": 3}, "no multiple"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act='relu'"),
    "another rotary kind": ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn'"),
    "a huge vocabulary": ({"vocab_size": 9_999_999}, "does not fit its config"),
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_it_refuses_a_config_that_it_cannot_follow(saved, name):
    change, reason = HOSTILE_CONFIGS[name]
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(saved)


def test_it_tells_policies_reward_models_and_states_apart(saved, make_policy, story_tokenizer, tmp_path):
    checkpoint.save_reward_model(make_reward_model(make_policy()), story_tokenizer, tmp_path / "rm")
    checkpoint.save_state(tmp_path / "state", {"a": torch.ones(2)}, {"step": 1})
    with pytest.raises(CheckpointError, match="holds a reward model, not a policy"):
        checkpoint.load_policy(tmp_path / "rm")
    with pytest.raises(CheckpointError, match="holds a state, not a policy"):
        checkpoint.load_policy(tmp_path / "state")
    with pytest.raises(CheckpointError, match="holds no reward model"):
        checkpoint.load_reward_model(saved)
    with pytest.raises(CheckpointError, match="holds no trainer state"):
        checkpoint.load_state(saved)
    with pytest.raises(CheckpointError, match="no checkpoint directory"):
        checkpoint.load_policy(tmp_path / "nowhere")


def test_it_names_a_pickle_where_weights_are_missing(saved):
    os.rename(saved / "model.safetensors", saved / "pytorch_model.bin")
    (saved / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a pickle"):
        checkpoint.load_policy(saved)


def test_it_gives_trainer_state_back(tmp_path):
    tensors = {"a": torch.arange(3), "b": torch.ones(2, 2, dtype=torch.uint8).t()}
    digest = checkpoint.save_state(tmp_path / "s", tensors, {"step": 3, "rate": 0.5})
    found, meta = checkpoint.load_state(tmp_path / "s")
    assert meta == {"step": 3, "rate": 0.5}
    assert digest == checkpoint.digest(tmp_path / "s")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype is tensor.dtype
