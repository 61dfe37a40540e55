"""PPO: what it must be before its first step, what one update does, and that a toy is learned."""

import json
import math

import numpy as np
import pytest
import torch

from training.engine import checkpoint, config, data, ppo, rollout, rundir, sampling
from training.engine.guards import GuardStop
from training.engine.heads import RewardModel, ScalarHead
from training.engine.progress import Interrupted, newest_checkpoint


@pytest.fixture
def world(tmp_path, make_policy, story_tokenizer):
    """world(**ppo settings) -> a Config over a tiny policy, a random reward model and a few prompts."""
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, tmp_path / "policy")
    checkpoint.save_policy(make_policy(**shape, seed=2), story_tokenizer, tmp_path / "other")
    judge = RewardModel(make_policy(**shape, seed=3), ScalarHead(32, generator=torch.Generator().manual_seed(0)))
    judge.fold(1.0, 0.25)
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "reward_model")
    lines = [
        {"messages": [{"role": "user", "content": f"a {trait} {animal}"}], "pool": pool}
        for trait, animal, pool in [
            ("shy", "fox", "ppo"),
            ("brave", "owl", "ppo"),
            ("small old", "bear", "ppo"),
            ("clever", "mouse", "eval"),
        ]
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(run=None, inputs=None, **settings):
        settings = {
            "iterations": 3,
            "batch_size": 8,
            "minibatch_size": 4,
            "max_new_tokens": 10,
            "sample_prompts": 2,
            "sample_every_iterations": 2,
            **settings,
        }
        names = {name: str(tmp_path / name) for name in ("policy", "reward_model")}
        return config.build(
            {
                "run": {"device": "cpu", "seed": 5, **(run or {})},
                "inputs": {
                    **names,
                    "ref_policy": str(tmp_path / "policy"),
                    "prompts": str(tmp_path / "prompts.jsonl"),
                    **(inputs or {}),
                },
                "ppo": settings,
            }
        )

    return make


def run(tmp_path, settings, name="run", **arguments):
    run_dir = rundir.create(tmp_path / name, config.resolved(settings))
    ppo.train(settings, run_dir, **arguments)
    return run_dir


def events(run_dir, kind):
    return [event for event in rundir.read_events(run_dir)[0] if event["type"] == kind]


def sample(world, players, settings, seed=0):
    prompts, _ = ppo.load_prompts(world, players)
    batch = ppo.take_prompts(prompts, 0, settings, seed=0)
    return ppo.roll_out(players, batch, settings, kl_coef=settings.kl_coef, seed=seed)


def test_it_trains_and_saves_a_policy(tmp_path, world):
    settings = world()
    run_dir = run(tmp_path, settings)
    finished = events(run_dir, "finished")[0]
    assert finished["digest"] == checkpoint.digest(run_dir / "output")
    assert set(finished["summary"]) >= {"score_mean", "kl_per_completion"}
    before, after = checkpoint.load_policy(settings.inputs.policy), checkpoint.load_policy(run_dir / "output")
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert [event["step"] for event in events(run_dir, "metrics")] == [1, 2, 3]
    assert "pool ppo" in events(run_dir, "log")[0]["message"]
    shown = events(run_dir, "samples")
    assert [event["step"] for event in shown] == [1, 2, 3]
    assert set(shown[0]["samples"][0]) == {"prompt", "completion", "reference", "score", "reference_score"}
    assert len(shown[0]["samples"]) == 2
