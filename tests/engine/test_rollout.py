"""Rewards, advantages and whitening against hand-worked numbers and independent NumPy ones."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.engine import rollout


def ragged(seed, rows=5, width=9):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    rewards, values = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0), mask


def numpy_gae(rewards, values, gamma, gae_lambda):
    """One row's advantages as the explicit double sum of (gamma lambda)^l delta_{t+l}: no recursion."""
    following = np.append(values[1:], 0.0)
    deltas = rewards + gamma * following - values
    count = len(deltas)
    return np.array([sum((gamma * gae_lambda) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)])


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_it_estimates_advantages_as_the_explicit_sum_does(seed, gamma, gae_lambda):
    rewards, values, mask = ragged(seed)
    advantages, returns = rollout.gae(rewards, values, mask, gamma, gae_lambda)
    for row in range(len(mask)):
        length = int(mask[row].sum())
        expected = numpy_gae(rewards[row, :length].numpy(), values[row, :length].numpy(), gamma, gae_lambda)
        np.testing.assert_allclose(advantages[row, :length].numpy(), expected, atol=1e-10)
        np.testing.assert_allclose(returns[row, :length].numpy(), expected + values[row, :length].numpy(), atol=1e-10)
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_it_estimates_advantages_by_hand():
    # gamma 1, lambda 0.5, rewards 0, 1; values 0.5, 0.25.
    # delta_1 = 1 - 0.25 = 0.75; delta_0 = 0 + 0.25 - 0.5 = -0.25; A_1 = 0.75; A_0 = -0.25 + 0.5 * 0.75 = 0.125
    advantages, returns = rollout.gae(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.25]]), torch.ones(1, 2, dtype=torch.bool), 1.0, 0.5
    )
    assert advantages.tolist() == [[0.125, 0.75]]
    assert returns.tolist() == [[0.625, 1.0]]


def test_it_gives_the_reward_to_go_at_lambda_one_and_the_td_error_at_zero():
    rewards, values, mask = ragged(3)
    _, returns = rollout.gae(rewards, values, mask, 1.0, 1.0)
    to_go = torch.where(mask, rewards.flip(1).cumsum(1).flip(1), 0.0)
    torch.testing.assert_close(returns, to_go)
    advantages, _ = rollout.gae(rewards, values, mask, 0.9, 0.0)
    following = torch.nn.functional.pad(values[:, 1:], (0, 1))
    torch.testing.assert_close(advantages, torch.where(mask, rewards + 0.9 * following - values, 0.0))


def test_it_does_not_see_what_stands_in_the_padding():
    rewards, values, mask = ragged(4)
    advantages, returns = rollout.gae(rewards, values, mask, 1.0, 0.95)
    dirty = torch.where(mask, values, 1e6), torch.where(mask, rewards, -1e6)
    again, returns_again = rollout.gae(dirty[1], dirty[0], mask, 1.0, 0.95)
    torch.testing.assert_close(again, advantages)
    torch.testing.assert_close(returns_again, returns)


def test_it_whitens_to_mean_zero_and_variance_one_over_the_mask():
    x, _, mask = ragged(5, rows=40)
    x = x * 3 + 11
    whitened = rollout.whiten(x, mask)
    inside = whitened[mask].numpy()
    assert inside.mean() == pytest.approx(0, abs=1e-5)
    assert inside.var() == pytest.approx(1, abs=1e-5)
    assert not whitened[~mask].any()
    # Only the mask counts.
    torch.testing.assert_close(rollout.whiten(torch.where(mask, x, 1e9), mask), whitened)


def test_it_keeps_the_mean_only_when_asked():
    x = torch.tensor([[1.0, 3.0, 99.0]])
    mask = torch.tensor([[True, True, False]])
    # mean 2, deviation 1
    assert rollout.whiten(x, mask)[0].tolist() == pytest.approx([-1.0, 1.0, 0.0])
    assert rollout.whiten(x, mask, keep_mean=True)[0].tolist() == pytest.approx([1.0, 3.0, 0.0])


def test_it_whitens_the_same_however_the_padding_is_laid_out():
    x, _, mask = ragged(6)
    wide = torch.nn.functional.pad(x, (0, 7), value=5.0), torch.nn.functional.pad(mask, (0, 7))
    torch.testing.assert_close(rollout.whiten(*wide)[:, : x.shape[1]], rollout.whiten(x, mask))


def test_it_adds_up_to_the_score_less_the_kl_penalty():
    _, logprobs, mask = ragged(7)
    ref_logprobs = torch.where(mask, logprobs - 0.3, 0.0)
    scores = torch.arange(5, dtype=torch.float64)
    rewards = rollout.token_rewards(scores, logprobs, ref_logprobs, mask, 0.05)
    # each of n actions costs 0.05 * 0.3
    expected = scores - 0.05 * 0.3 * mask.sum(1)
    torch.testing.assert_close(rewards.sum(1), expected)
    assert not rewards[~mask].any()


def test_it_places_kl_on_each_action_and_the_score_on_the_last():
    # kl_coef 0.1: -0.1 * (-1 - -2) = -0.1; -0.1 * (-3 - -2.5) = 0.05, and the score 2 on top
    mask = torch.tensor([[True, True, False]])
    rewards = rollout.token_rewards(
        torch.tensor([2.0]), torch.tensor([[-1.0, -3.0, 7.0]]), torch.tensor([[-2.0, -2.5, 0.0]]), mask, 0.1
    )
    assert rewards[0].tolist() == pytest.approx([-0.1, 2.05, 0.0])
    kl = rollout.completion_kl(torch.tensor([[-1.0, -3.0, 7.0]]), torch.tensor([[-2.0, -2.5, 0.0]]), mask)
    assert kl.tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("stop", [1, 7])
def test_it_truncates_at_the_first_stop_token(stop):
    before, ended = rollout.truncate_at_stop([4, stop, 5, stop], [stop])
    assert (before, ended) == ([4, stop], True)
    assert rollout.truncate_at_stop([4, stop, 9, 9, 9], [stop])[0] == before
    assert rollout.truncate_at_stop([4, 5], [stop]) == ([4, 5], False)


def test_it_scores_a_completion_without_an_end_by_the_setting():
    scores = rollout.scores_with_ends(torch.tensor([0.5, 2.0]), torch.tensor([True, False]), -3.0)
    assert scores.tolist() == [0.5, -3.0]


def test_it_reads_each_action_off_the_position_before_it():
    # rows: prompt 5 6, completion 7 8 | prompt 5, completion 9
    trajectories = rollout.collate([[5, 6], [5]], [[7, 8], [9]], pad_id=0)
    assert trajectories.input_ids.tolist() == [[5, 6, 7, 8], [5, 9, 0, 0]]
    assert trajectories.tokens.tolist() == [5, 6, 7, 8, 5, 9]
    assert trajectories.decisions.tolist() == [1, 2, 4]
    hidden = torch.arange(6.0)[:, None].index_select(0, trajectories.decisions)
    assert trajectories.spread(hidden)[..., 0].tolist() == [[1, 2], [4, 0]]


def test_it_keeps_every_token_of_a_completion_whatever_its_id():
    """Where padding is the end of text, as in many checkpoints, the end that a policy said still is an action."""
    end = 7
    trajectories = rollout.collate([[5, end, 6], [5]], [[8, end], [end, end, 9, end]], pad_id=end)
    assert trajectories.action_mask.tolist() == [[True, True, False, False], [True] * 4]
    assert trajectories.attention_mask.sum(1).tolist() == [5, 5]
    assert trajectories.actions[trajectories.action_mask].tolist() == [8, end, end, end, 9, end]


def test_it_takes_rows_and_trims_them():
    prompts, completions = [[5, 6], [5], [5, 6, 7]], [[7, 8], [9], [1, 2, 3, 4]]
    taken = rollout.collate(prompts, completions, pad_id=0).take([1, 0])
    alone = rollout.collate([prompts[1], prompts[0]], [completions[1], completions[0]], pad_id=0)
    for name in ("input_ids", "attention_mask", "actions", "action_mask", "tokens", "decisions"):
        assert torch.equal(getattr(taken, name), getattr(alone, name)), name


def test_it_refuses_an_empty_completion():
    with pytest.raises(ValueError, match="at least one token"):
        rollout.collate([[1]], [[]], pad_id=0)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_it_takes_logprobs_of_a_distribution_over_the_whole_vocabulary(temperature):
    logits = torch.randn(1, 11, generator=torch.Generator().manual_seed(1))
    total = 0.0
    for token in range(11):
        trajectories = rollout.collate([[3]], [[token]], pad_id=0)
        total += rollout.action_logprobs(logits, trajectories, temperature=temperature).exp().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_it_measures_entropy_and_exact_kl_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): H(p) = 0.562335, KL(p || q) = log 2 - H(p) = 0.130812
    p, q = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2)
    assert rollout.entropy(p).item() == pytest.approx(0.562335, abs=1e-6)
    assert rollout.exact_kl(p, q).item() == pytest.approx(0.130812, abs=1e-6)
    assert rollout.exact_kl(p, p).item() == 0
    # Temperature 1/2 doubles the logits: p = (9/10, 1/10)
    assert rollout.entropy(p, temperature=0.5).item() == pytest.approx(0.325083, abs=1e-6)


def test_it_averages_k1_to_the_exact_kl():
    logits, ref_logits = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(2))
    p = torch.softmax(logits[0], -1).double().numpy()
    q = torch.softmax(ref_logits[0], -1).double().numpy()
    assert rollout.exact_kl(logits, ref_logits).item() == pytest.approx(float((p * np.log(p / q)).sum()), abs=1e-6)


def test_it_explains_variance_by_hand():
    mask = torch.tensor([[True, True, True, False]])
    returns = torch.tensor([[1.0, 2.0, 3.0, 50.0]])
    assert rollout.explained_variance(returns, returns, mask).item() == 1
    # A constant explains nothing; a constant offset costs nothing.
    assert rollout.explained_variance(torch.zeros(1, 4), returns, mask).item() == pytest.approx(0)
    assert rollout.explained_variance(returns + 5, returns, mask).item() == pytest.approx(1)


def test_it_steers_kl_to_the_target():
    # The synthetic policy's KL falls as kl_coef grows: 1.2 / kl_coef, which is 6 at 0.2.
    controller = rollout.KlController(0.05, target=6.0, horizon=10000)
    trace = []
    for _ in range(3000):
        kl = 1.2 / controller.kl_coef
        trace.append(kl)
        controller.update(kl, 128)
    assert trace[-1] == pytest.approx(6.0, rel=0.01)
    # At most 20% of 128 / 10000 a time.
    steps = [abs(a / b - 1) for a, b in itertools.pairwise(trace)]
    assert max(steps) <= 0.2 * 128 / 10000 + 1e-9


def test_it_leaves_a_fixed_kl_coef_alone():
    controller = rollout.KlController(0.05)
    controller.update(100.0, 128)
    assert controller.kl_coef == 0.05


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_compares_policies_as_the_single_readings_do(temperature):
    trajectories = rollout.collate([[3], [4, 5]], [[1, 2, 6], [7]], pad_id=0)
    logits, ref_logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(3))
    found = rollout.compare(logits, ref_logits, trajectories, temperature=temperature)
    expected = {
        "logprobs": rollout.action_logprobs(logits, trajectories, temperature=temperature),
        "ref_logprobs": rollout.action_logprobs(ref_logits, trajectories, temperature=temperature),
        "entropy": trajectories.spread(rollout.entropy(logits, temperature=temperature)),
        "exact_kl": trajectories.spread(rollout.exact_kl(logits, ref_logits, temperature=temperature)),
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
