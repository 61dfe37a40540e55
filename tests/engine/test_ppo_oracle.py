"""A whole PPO update against a small one: no padding, one token at a time, clipping and Adam in plain NumPy."""

import copy

import numpy as np
import pytest
import torch

from tests.engine.test_ppo import one_update
from tests.engine.test_ppo import world as world
from training.engine import data, ppo


def plain_loss(policy, value_network, drawn, advantages, returns, rows, settings):
    """The loss of one step as the papers write it, token after token."""
    t, terms = drawn.trajectories, []
    for row in rows:
        width, length = int(t.attention_mask[row].sum()), int(t.action_mask[row].sum())
        ids = t.input_ids[row, :width]
        logits = policy(ids[None])[0] / settings.temperature
        values = value_network.values(ids[None])[0]
        for step in range(length):
            place = width - length + step  # of the token itself
            logprob = logits[place - 1, ids[place]] - logits[place - 1].logsumexp(0)
            ratio = torch.exp(logprob - drawn.old_logprobs[row, step])
            advantage = advantages[row, step].item()
            low, high = 1 - settings.clip_range, 1 + settings.clip_range
            is_past = ratio.item() > high if advantage > 0 else ratio.item() < low
            surrogate = (high if advantage > 0 else low) * advantage if is_past else ratio * advantage
            value, old, target = values[place - 1], drawn.values[row, step].item(), returns[row, step].item()
            error = (value - target) ** 2
            if abs(value.item() - old) > settings.value_clip_range:
                near = old + np.sign(value.item() - old) * settings.value_clip_range
                error = max(error, torch.tensor((near - target) ** 2), key=lambda x: x.item())
            terms.append(settings.value_coef * 0.5 * error - surrogate)
    return sum(terms) / len(terms)


class PlainAdam:
    """Adam (arXiv:1412.6980, algorithm 1) in float64, after clipping by the global norm."""

    def __init__(self, module, optim):
        self.parameters = list(module.parameters())
        self.optim = optim
        self.moments = [(np.zeros(p.shape), np.zeros(p.shape)) for p in self.parameters]
        self.steps = 0

    def step(self, rate):
        self.steps += 1
        gradients = [np.zeros(p.shape) if p.grad is None else p.grad.double().numpy() for p in self.parameters]
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
        o = self.optim
        for number, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            gradient = gradient * min(1.0, o.max_grad_norm / norm)
            first, second = self.moments[number]
            first, second = o.beta1 * first + (1 - o.beta1) * gradient, o.beta2 * second + (1 - o.beta2) * gradient**2
            self.moments[number] = first, second
            move = first / (1 - o.beta1**self.steps) / (np.sqrt(second / (1 - o.beta2**self.steps)) + o.eps)
            parameter.data -= torch.from_numpy(rate * move).float()
            parameter.grad = None


@pytest.mark.parametrize("minibatch_size", [6, 2])
def test_it_updates_as_a_plain_reading_of_the_papers_does(world, monkeypatch, minibatch_size):
    made = world(
        batch_size=6, minibatch_size=minibatch_size, ppo_epochs=2, iterations=3, value_coef=0.3, temperature=0.8,
        value_learning_rate=2e-3, optim={"learning_rate": 1e-3, "max_grad_norm": 0.3},
    )  # fmt: skip
    monkeypatch.setattr(data, "CPU_PASS_TOKENS", 10_000)  # a pass is a step
    players, drawn, advantages, returns = one_update(made)
    assert len(set(drawn.trajectories.action_mask.sum(1).tolist())) > 1, "lengths must differ to tell"
    settings, trainers = made.ppo, ppo.make_trainers(players, made.ppo)
    plain = {"policy": copy.deepcopy(players.policy), "value": copy.deepcopy(players.value_network)}
    before = copy.deepcopy(plain)
    minibatches = []
    ppo_loss = ppo.ppo_loss

    def record(*arguments):
        minibatches.append([int(row) for row in arguments[5]])
        return ppo_loss(*arguments)

    monkeypatch.setattr(ppo, "ppo_loss", record)
    readings = ppo.update(players, trainers, drawn, advantages, returns, settings, 0, seed=0)
    assert readings["clip_fraction"] > 0 and readings["value_clip_fraction"] > 0

    assert [len(rows) for rows in minibatches] == [minibatch_size] * (12 // minibatch_size)
    optimizers = {name: PlainAdam(module, trainers[name].optim) for name, module in plain.items()}
    total = settings.iterations * len(minibatches)
    for step, rows in enumerate(minibatches):
        plain_loss(plain["policy"], plain["value"], drawn, advantages, returns, rows, settings).backward()
        for name, peak in (("policy", 1e-3), ("value", 2e-3)):
            optimizers[name].step(peak * (1 - step / total))
    for name, ours in (("policy", players.policy), ("value", players.value_network)):
        moved = 0.0
        for one, other, start in zip(*(x.parameters() for x in (ours, plain[name], before[name])), strict=True):
            torch.testing.assert_close(one, other, atol=3e-5, rtol=0)
            moved = max(moved, (one - start).abs().max().item())
        assert moved > 1e-3
