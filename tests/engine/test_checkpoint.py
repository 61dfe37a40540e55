"""Checkpoints: whole or not at all, named by their contents. (Families and hostile ones have files of their own.)"""

import os
import resource

import pytest
import torch

from training.engine import checkpoint
from training.engine.checkpoint import CheckpointError
from training.engine.heads import RewardModel, ScalarHead

IDS = torch.tensor([[5, 9, 11, 4, 30, 31, 7, 8, 12, 3]])


def make_reward_model(policy, *, shift=0.25, seed=0):
    head = ScalarHead(policy.config.hidden_size, generator=torch.Generator().manual_seed(seed))
    return RewardModel(policy, head, score_shift=shift).eval()


def test_its_files_can_be_read_by_whom_the_umask_lets(make_policy, story_tokenizer, tmp_path):
    before = os.umask(0o027)
    try:
        checkpoint.save_policy(make_policy(), story_tokenizer, tmp_path / "policy")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "policy").iterdir()}
    assert "model.safetensors" in modes and set(modes.values()) == {"0o640"}, modes


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

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    for step in ("write_weights", "_make_manifest", "_replace_directory"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, step, full_disk)
            with pytest.raises(CheckpointError, match=r"cannot be written.*No space left.*free some disk space"):
                checkpoint.save_policy(make_policy(seed=2), story_tokenizer, saved)
        assert checkpoint.verify(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


def test_it_says_that_the_disk_is_full_where_weights_do_not_fit(saved, make_policy, story_tokenizer):
    """A limit on file sizes stands in for a full disk: what fails is the file format's own library."""
    before = checkpoint.digest(saved)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written.*free some disk space"):
            checkpoint.save_policy(make_policy(seed=2), story_tokenizer, saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.verify(saved) == before
    assert [path.name for path in saved.parent.iterdir()] == ["policy"]


def test_it_replaces_a_checkpoint_of_the_same_name(saved, make_policy, story_tokenizer):
    digest = checkpoint.save_policy(make_policy(seed=2), story_tokenizer, saved)
    assert checkpoint.verify(saved) == digest


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


def test_it_gives_trainer_state_back(tmp_path):
    tensors = {"a": torch.arange(3), "b": torch.ones(2, 2, dtype=torch.uint8).t()}
    digest = checkpoint.save_state(tmp_path / "s", tensors, {"step": 3, "rate": 0.5})
    found, meta = checkpoint.load_state(tmp_path / "s")
    assert meta == {"step": 3, "rate": 0.5}
    assert digest == checkpoint.digest(tmp_path / "s")
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor) and found[name].dtype is tensor.dtype
