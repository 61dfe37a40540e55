"""Checkpoints that somebody broke or made up: refused in one sentence, whatever their manifest says."""

import json
import os
import pickle
import shutil
import struct
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from training.engine import checkpoint, families, family_config, sampling, weights
from training.engine.checkpoint import CheckpointError
from training.engine.heads import RewardModel, ScalarHead


@pytest.fixture
def saved(make_policy, story_tokenizer, tmp_path):
    path = tmp_path / "policy"
    checkpoint.save_policy(make_policy(vocab_size=story_tokenizer.vocab_size), story_tokenizer, path)
    return path


@pytest.fixture
def sharded(make_policy, story_tokenizer, tmp_path):
    path = tmp_path / "policy"
    policy = make_policy(vocab_size=story_tokenizer.vocab_size)
    checkpoint.save_policy(policy, story_tokenizer, path, shard_bytes=30_000)
    assert len(shards_of(path)) == 4
    return path


def shards_of(path):
    return sorted(path.glob("model-*.safetensors"))


def rewrite_manifest(path):
    """The manifest that someone makes who changes a file and wants it believed."""
    (path / "manifest.json").unlink(missing_ok=True)
    manifest = checkpoint._make_manifest(path, "policy")
    (path / "manifest.json").write_text(json.dumps(manifest))


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def header_only(length, text=b"{}"):
    return struct.pack("<Q", length) + text


def bare_header(entries, payload=b""):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + payload


FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
MANY = bare_header({str(n): {**FLOAT, "shape": [0], "data_offsets": [0, 0]} for n in range(100_000)})
UNSOUND = "not a sound safetensors file"
HOSTILE_WEIGHTS = {
    "a pickle": (pickle.dumps({"a": 1}), "pickle or a zip"),
    "a zip": (b"PK\x03\x04" + b"\0" * 64, "pickle or a zip"),
    "empty": (b"", "header is damaged"),
    "header length 2^64-1": (header_only(2**64 - 1), "header is damaged"),
    "header beyond the file": (header_only(1000), "header is damaged"),
    "no JSON": (header_only(2, b"{x"), UNSOUND),
    "deep JSON": (header_only(200_000, b'{"a":' + b"[" * 199_995), UNSOUND),
    "overlapping offsets": (bare_header({"a": FLOAT, "b": FLOAT}, b"\0" * 4), UNSOUND),
    "a hole between tensors": (bare_header({"a": FLOAT, "b": {**FLOAT, "data_offsets": [8, 12]}}, b"\0" * 12), UNSOUND),
    "offsets backwards": (bare_header({"a": {**FLOAT, "data_offsets": [4, 0]}}, b"\0" * 4), UNSOUND),
    "offsets beyond the end": (
        bare_header({"a": {**FLOAT, "data_offsets": [0, 400], "shape": [100]}}, b"\0" * 4), UNSOUND
    ),
    "negative shape": (bare_header({"a": {**FLOAT, "shape": [-1]}}, b"\0" * 4), UNSOUND),
    "shape product overflow": (bare_header({"a": {**FLOAT, "shape": [2**33, 2**33]}}, b"\0" * 4), UNSOUND),
    "unknown number format": (bare_header({"a": {**FLOAT, "dtype": "X7"}}, b"\0" * 4), UNSOUND),
    "100,000 tensors": (MANY, "holds 100000 tensors, more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_WEIGHTS)
def test_it_refuses_hostile_weights(saved, name):
    content, reason = HOSTILE_WEIGHTS[name]
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        checkpoint.load_policy(saved)
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(saved)


def peak_memory():
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def test_it_refuses_100_000_tensors_in_two_seconds_and_little_memory(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(MANY)
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")  # the peak starts anew
    before, began = peak_memory(), time.process_time()
    with pytest.raises(CheckpointError, match="holds 100000 tensors"):
        weights.read_tensors(path)
    assert time.process_time() - began < 2
    assert peak_memory() - before < 20 * len(MANY) < 200_000_000


def nan_weights(path):
    tensors = load_file(path / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, path / "model.safetensors")


def without_a_tensor(path):
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors")


def with_tensors(path, **more):
    save_file(load_file(path / "model.safetensors") | more, path / "model.safetensors")


def test_it_refuses_to_vouch_for_weights_that_are_not_finite(saved):
    """Their sha256 is right: what promotion asks (`verify`) looks at the numbers."""
    nan_weights(saved)
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=r"not finite \(norm.weight\)"):
        checkpoint.verify(saved)


def test_it_refuses_to_vouch_for_a_reward_model_that_is_not_finite(make_policy, story_tokenizer, tmp_path):
    head = ScalarHead(32, zero=True)
    head.weight.data[0, 3] = float("inf")
    judge = RewardModel(make_policy(vocab_size=story_tokenizer.vocab_size), head)
    checkpoint.save_reward_model([judge, judge], story_tokenizer, tmp_path / "rm")
    with pytest.raises(CheckpointError, match=r"not finite \(head.weight\)"):
        checkpoint.verify(tmp_path / "rm")


UNFIT = {
    "a missing tensor": (without_a_tensor, "lacks the tensor model.layers.1.mlp.up_proj.weight"),
    "a misshapen tensor": (
        lambda path: with_tensors(path, **{"model.layers.1.mlp.up_proj.weight": torch.zeros(3, 3)}),
        "does not fit its config",
    ),
    "a tensor too many": (
        lambda path: with_tensors(path, **{"model.layers.9.mlp.up_proj.weight": torch.zeros(3, 3)}),
        "family does not have",
    ),
    "only a pickle": (
        lambda path: os.rename(path / "model.safetensors", path / "pytorch_model.bin"),
        "pytorch_model.bin is a pickle, which can run code",
    ),
    "a folder for a file": (
        lambda path: (os.remove(path / "model.safetensors"), (path / "model.safetensors").mkdir()),
        "cannot be read",
    ),
    "no config": (lambda path: os.remove(path / "config.json"), "config.json cannot be read"),
    "a list for a config": (lambda path: (path / "config.json").write_text("[]"), "must hold one JSON object"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_it_refuses_what_is_not_whole(saved, name):
    change, reason = UNFIT[name]
    change(saved)
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(saved)


def link(path, target):
    os.rename(path, target)
    path.symlink_to(target)


HOSTILE_SHARDS = {
    "a missing shard": (lambda path: shards_of(path)[1].unlink(), "cannot be read"),
    "an extra shard": (
        lambda path: shutil.copy(shards_of(path)[0], path / "model-00009-of-00009.safetensors"),
        "holds model-00009-of-00009.safetensors, which model.safetensors.index.json does not name",
    ),
    "a symlinked shard": (lambda path: link(shards_of(path)[0], path.parent / "elsewhere"), "is a link"),
    "a shard outside": (
        lambda path: change_json(
            path / "model.safetensors.index.json", weight_map={"model.norm.weight": "../model.safetensors"}
        ),
        "no file of its own directory",
    ),
    "an absolute shard": (
        lambda path: change_json(path / "model.safetensors.index.json", weight_map={"a": "/etc/passwd.safetensors"}),
        "no file of its own directory",
    ),
    "a shard that is no safetensors": (
        lambda path: change_json(path / "model.safetensors.index.json", weight_map={"a": "config.json"}),
        "no file of its own directory",
    ),
    "an index that names another tensor": (
        lambda path: change_json(
            path / "model.safetensors.index.json",
            weight_map=json.loads((path / "model.safetensors.index.json").read_text())["weight_map"]
            | {"more": shards_of(path)[0].name},
        ),
        "disagree about the tensor more",
    ),
    "an index without a map": (
        lambda path: (path / "model.safetensors.index.json").write_text('{"weight_map": 3}'),
        "has no weight_map",
    ),
    "an index nested deep": (
        lambda path: (path / "model.safetensors.index.json").write_text('{"weight_map":' + "[" * 100_000),
        "not valid JSON",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_SHARDS)
def test_it_refuses_hostile_shards(sharded, name):
    """Without a manifest, as they come from elsewhere."""
    change, reason = HOSTILE_SHARDS[name]
    (sharded / "manifest.json").unlink()
    checkpoint.load_policy(sharded)
    change(sharded)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(sharded)


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


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema": "other"}', "[" * 100_000])
def test_it_refuses_a_broken_manifest(saved, text):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.load_policy(saved)


@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_it_ignores_code_that_a_checkpoint_names_and_says_so(saved, caplog, file, key):
    (saved / "evil.py").write_text("raise SystemExit('this ran')")
    change_json(saved / file, **{key: {"AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.T", None]}})
    rewrite_manifest(saved)
    policy = checkpoint.load_policy(saved)
    tokenizer = checkpoint.load_tokenizer_of(saved)
    assert f"names code of its own ({key}); it is ignored" in caplog.text
    prompt = tokenizer.encode_prompt([{"role": "user", "content": "Hi"}])
    assert len(sampling.generate(policy, [prompt], max_new_tokens=2)[0].ids) == 2


HOSTILE_CONFIGS = {
    "another family": ({"model_type": "bert"}, "supported are: gpt2, gpt_neox, llama"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
    "too many layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
    "more layers than tensors": ({"num_hidden_layers": 900}, "it is not whole"),
    "text for a number": ({"hidden_size": "32"}, "hidden_size='32'"),
    "odd heads": ({"num_key_value_heads": 3}, "no multiple"),
    "another activation": ({"hidden_act": "relu"}, "hidden_act='relu'"),
    "another rotary kind": ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type='yarn'"),
    "stretched by nothing": ({"rope_parameters": {"rope_type": "linear"}}, "factor=None"),
    "a part of each head": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "a part of each head"),
    "rotary settings that are no object": ({"rope_parameters": [1]}, "are no object"),
    "a huge vocabulary": ({"vocab_size": 9_999_999}, "does not fit its config"),
    "no number": ({"rms_norm_eps": float("inf")}, "rms_norm_eps=inf"),
}


@pytest.mark.parametrize("name", HOSTILE_CONFIGS)
def test_it_refuses_a_config_that_it_cannot_follow(saved, name):
    change, reason = HOSTILE_CONFIGS[name]
    change_json(saved / "config.json", **change)
    rewrite_manifest(saved)
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.load_policy(saved)


WINDOWS = {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
FULL, SLIDING = "full_attention", "sliding_attention"
OTHER_FAMILIES = {
    "windows before full attention": ({**WINDOWS, "layer_types": [SLIDING, FULL, FULL]}, "mixes"),
    "windows by turns": ({**WINDOWS, "model_type": "qwen2", "layer_types": [FULL, SLIDING, FULL]}, "mixes"),
    "windows of no size": ({"model_type": "qwen2", "layer_types": [FULL, SLIDING, SLIDING]}, "mixes"),
    "layers without a kind": ({**WINDOWS, "layer_types": [FULL]}, "mixes"),
    "kinds that are no list": ({**WINDOWS, "layer_types": 3}, "mixes"),
    "windows before the first layer": ({**WINDOWS, "max_window_layers": -1}, "max_window_layers"),
    "attention without a scale": ({"model_type": "gpt2", "scale_attn_weights": False}, "scale_attn_weights=false"),
    "attention scaled by layer": ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, "by_inverse"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_it_refuses_what_other_families_say_and_it_cannot_follow(name):
    change, reason = OTHER_FAMILIES[name]
    shape = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
    shape |= {"n_head": 4, "n_embd": 32, "n_layer": 3, "vocab_size": 64}
    with pytest.raises(families.FamilyError, match=reason):
        family_config.read_config({**shape, **change})
