"""The reward model's training beside TRL's RewardTrainer, whose word tests/golden keeps."""

import json
from pathlib import Path

import pytest
import torch

from tests.golden import make_trl_rewards
from training.engine import checkpoint, distributed, optim, reward_model, sections


def test_it_trains_as_trls_reward_trainer_does():
    """Step after step on the same pairs: losses, margins, gradient norms and weights that TRL 1.16.0 wrote down."""
    folder = Path(__file__).parent.parent / "golden" / "trl_rewards"
    record = json.loads((folder / "trace.json").read_text())
    member = checkpoint.load_reward_model(folder / "reward_model")
    batch = [
        reward_model.Comparable(
            prompt=pair["prompt"],
            completions=[pair["rejected"], pair["chosen"]],
            order=[[1], [0]],
            weight=1.0,
            group="",
        )
        for pair in record["pairs"]
    ]
    compute = distributed.Compute(sections.RunConfig(device="cpu", threads=1))
    settings = sections.OptimConfig(
        learning_rate=make_trl_rewards.RATE, eps=make_trl_rewards.EPSILON, beta1=make_trl_rewards.BETAS[0],
        beta2=make_trl_rewards.BETAS[1], max_grad_norm=make_trl_rewards.NORM, schedule="linear",
    )  # fmt: skip
    optimizer = optim.build_optimizer(member, settings)
    assert len(record["trace"]) == make_trl_rewards.STEPS
    for step, theirs in enumerate(record["trace"]):
        readings = reward_model.learn(member, batch, compute=compute, lm_coef=0.0)
        rate = optim.learning_rate(settings, step, make_trl_rewards.STEPS)
        norm = optim.take_step(optimizer, settings, rate=rate, what="a test")
        assert readings["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert readings["accuracy"] == theirs["accuracy"]
        assert norm == pytest.approx(theirs["grad_norm"], rel=1e-3)
        assert rate == pytest.approx(theirs["learning_rate"])
    assert record["trace"][-1]["loss"] < 0.7 * record["trace"][0]["loss"]
    torch.testing.assert_close(member.head.weight, torch.tensor(record["score_weight"]), atol=1e-4, rtol=0)
