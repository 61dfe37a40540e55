"""Losses against numbers worked by hand, independent NumPy ones, and properties."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.engine import losses

MASK = torch.tensor([[True, True, False]])


def softplus(x):
    return math.log1p(math.exp(x))


def numpy_kwise(scores, order):
    """The ranking loss by ranks and two loops, where ours goes by groups."""
    rank = {index: place for place, group in enumerate(order) for index in group}
    terms = [
        np.log1p(np.exp(-(scores[a] - scores[b])))
        for a, b in itertools.permutations(range(len(scores)), 2)
        if rank[a] < rank[b]
    ]
    return np.mean(terms)


@st.composite
def rankings(draw):
    count = draw(st.integers(2, 7))
    order = draw(st.permutations(range(count)))
    cuts = draw(st.sets(st.integers(1, count - 1), min_size=1))
    edges = [0, *sorted(cuts), count]
    scores = draw(st.lists(st.floats(-4, 4, width=32), min_size=count, max_size=count))
    return [list(order[a:b]) for a, b in itertools.pairwise(edges)], torch.tensor(scores)


def test_it_scores_a_ranking_by_hand():
    # order 2 > {0, 1}: the pairs are (2, 0) with margin 3 - 1 = 2 and (2, 1) with margin 3 - 2 = 1; the tie gives none.
    # mean(-log sigmoid) = (log(1 + e^-2) + log(1 + e^-1)) / 2 = (0.126928 + 0.313262) / 2 = 0.220095
    loss = losses.kwise_ranking_loss(torch.tensor([1.0, 2.0, 3.0]), [[2], [0, 1]])
    assert loss.item() == pytest.approx(0.220095, abs=1e-6)


def test_it_is_bradley_terry_for_two():
    # -log P(chosen beats rejected) with P = e^0.7 / (e^0.7 + e^-0.4)
    loss = losses.kwise_ranking_loss(torch.tensor([-0.4, 0.7]), [[1], [0]])
    assert loss.item() == pytest.approx(-math.log(math.exp(0.7) / (math.exp(0.7) + math.exp(-0.4))), abs=1e-6)


@given(rankings())
@settings(max_examples=60, deadline=None)
def test_it_is_the_mean_over_pairs_whatever_the_ties(ranking):
    order, scores = ranking
    assert losses.kwise_ranking_loss(scores, order).item() == pytest.approx(
        numpy_kwise(scores.double().numpy(), order), abs=1e-5
    )


@given(rankings(), st.floats(-5, 5))
@settings(max_examples=40, deadline=None)
def test_it_does_not_see_a_shift_of_all_scores(ranking, shift):
    order, scores = ranking
    scores = scores.double()
    before = losses.kwise_ranking_loss(scores, order)
    assert losses.kwise_ranking_loss(scores + shift, order).item() == pytest.approx(before.item(), abs=1e-6)


@pytest.mark.parametrize("order", [[[0], [1]], [[0], [1], [1, 2]], [[0], [1], [3]]])
def test_it_refuses_an_order_that_is_no_partition(order):
    with pytest.raises(ValueError, match="must name each of the 3 completions once"):
        losses.kwise_ranking_loss(torch.zeros(3), order)


def test_it_refuses_a_ranking_of_ties_only():
    with pytest.raises(ValueError, match="all ties"):
        losses.kwise_ranking_loss(torch.zeros(3), [[0, 1, 2]])


def test_it_gives_rankings_of_any_size_the_same_weight():
    small, large = torch.tensor([0.3, -0.2]), torch.tensor([1.0, 0.1, -0.5, 2.0])
    comparisons = losses.collate_comparisons([(2, [[0], [1]]), (4, [[3], [0], [1, 2]])], weights=[1.0, 0.5])
    together = losses.ranking_loss(torch.cat([small, large]), comparisons, 1.5)
    apart = numpy_kwise(small.numpy(), [[0], [1]]) + 0.5 * numpy_kwise(large.numpy(), [[3], [0], [1, 2]])
    assert together.item() == pytest.approx(apart / 1.5, abs=1e-6)


def test_it_leaves_unranked_completions_out_of_every_comparison():
    scores = torch.tensor([0.5, 9.0, -0.5], requires_grad=True)
    losses.ranking_loss(scores, losses.collate_comparisons([(3, [[0], [2]])]), 1.0).backward()
    assert scores.grad[1] == 0
    assert scores.grad[0] < 0 < scores.grad[2]


def test_it_repeats_the_ranking_gradient_bit_for_bit():
    scores = torch.randn(288, generator=torch.Generator().manual_seed(0))
    orders = [(9, [[0], [3, 1], [2], [5], [8], [7, 6], [4]])] * 32

    def gradient():
        leaf = scores.clone().requires_grad_()
        losses.ranking_loss(leaf, losses.collate_comparisons(orders), 32).backward()
        return leaf.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(10))


def test_it_clips_the_policy_loss_by_hand():
    # ratios 1.5, 0.5 and (masked) e^9; advantages 2, -1, 7; clip 0.2
    # min(1.5 * 2, 1.2 * 2) = 2.4; min(0.5 * -1, 0.8 * -1) = -0.8; loss = -(2.4 - 0.8) / 2 = -0.8
    loss = losses.policy_loss(
        torch.tensor([[math.log(1.5), math.log(0.5), 9.0]]),
        torch.zeros(1, 3),
        torch.tensor([[2.0, -1.0, 7.0]]),
        MASK,
        clip_range=0.2,
        denominator=2,
    )
    assert loss.item() == pytest.approx(-0.8, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.3, 1.0, False),  # already likelier than the clip allows: no push further
        (0.7, -1.0, False),
        (1.3, -1.0, True),  # wrong side: the way back stays open
        (0.7, 1.0, True),
        (1.1, 1.0, True),
        (0.9, -1.0, True),
    ],
)
def test_it_has_no_policy_gradient_past_the_clip(ratio, advantage, moves):
    logprobs = torch.tensor([[math.log(ratio)]], requires_grad=True)
    losses.policy_loss(
        logprobs,
        torch.zeros(1, 1),
        torch.tensor([[advantage]]),
        torch.tensor([[True]]),
        clip_range=0.2,
        denominator=1,
    ).backward()
    # d(-ratio * advantage) / d logprob = -ratio * advantage
    assert logprobs.grad.item() == pytest.approx(-ratio * advantage if moves else 0.0, abs=1e-6)
    assert moves or logprobs.grad.item() == 0


def test_it_clips_the_value_loss_by_hand():
    # old 0, returns 1. value 0.5 -> clipped 0.2: errors 0.25 and 0.64, the worse is 0.64.
    # value -0.1 stays: 1.21. Half of the mean: 0.5 * (0.64 + 1.21) / 2 = 0.4625
    arguments = (torch.tensor([[0.5, -0.1, 3.0]]), torch.zeros(1, 3), torch.ones(1, 3), MASK)
    assert losses.value_loss(*arguments, value_clip_range=0.2, denominator=2).item() == pytest.approx(0.4625)
    # Without the clip: 0.5 * (0.25 + 1.21) / 2 = 0.365
    assert losses.value_loss(*arguments, value_clip_range=0.0, denominator=2).item() == pytest.approx(0.365)


def test_it_takes_the_language_model_loss_by_hand():
    # -(-1 - 2) / 2 = 1.5; the third token is masked, even as -inf.
    logprobs = torch.tensor([[-1.0, -2.0, -math.inf]], requires_grad=True)
    loss = losses.language_model_loss(logprobs, MASK, 2)
    loss.backward()
    assert loss.item() == pytest.approx(1.5)
    assert logprobs.grad.tolist() == [[-0.5, -0.5, 0.0]]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_it_gives_one_gradient_for_one_batch_of_eight_and_eight_of_one(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (8,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    old, advantages = torch.randn(2, 8, 8, generator=generator, dtype=torch.float64)
    total = mask.sum()

    def gradient(slices):
        leaf = (old + 0.1 * advantages.roll(1, 0)).requires_grad_()
        for part in slices:
            (
                losses.policy_loss(
                    leaf[part], old[part], advantages[part], mask[part], clip_range=0.2, denominator=total
                )
                + losses.value_loss(
                    leaf[part], old[part], advantages[part], mask[part], value_clip_range=0.2, denominator=total
                )
                + losses.language_model_loss(leaf[part], mask[part], total)
            ).backward()
        return leaf.grad

    torch.testing.assert_close(
        gradient([slice(0, 8)]), gradient([slice(i, i + 1) for i in range(8)]), rtol=0, atol=1e-12
    )
