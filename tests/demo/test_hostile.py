"""Annotators who do not do what they are asked."""

import pytest

from plumbline.demo import annotators, hostile
from plumbline.demo.annotators import SimulatedAnnotator
from plumbline.demo.hostile import HostileAnnotator

DRAWS = annotators.corpus_draws(30, 4, seed=9)


def orders(person):
    return [person.rank(prompt, texts) for prompt, texts in DRAWS]


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_it_gives_whole_orders(kind):
    for order in orders(HostileAnnotator(1, "style", kind)):
        assert sorted(index for group in order for index in group) == [0, 1, 2, 3]


def test_it_turns_the_own_honest_order_round():
    honest, reverser = SimulatedAnnotator(1, "style"), HostileAnnotator(1, "style", "reversed")
    assert orders(reverser) == [order[::-1] for order in orders(honest)]


def test_it_puts_the_longest_first():
    for (_prompt, texts), order in zip(DRAWS, orders(HostileAnnotator(1, "style", "length")), strict=True):
        lengths = [len(texts[index]) for (index,) in order]
        assert lengths == sorted(lengths, reverse=True)


def test_colluders_share_one_order_and_random_ones_none():
    assert orders(HostileAnnotator(1, "style", "colluding")) == orders(HostileAnnotator(2, "style", "colluding"))
    assert orders(HostileAnnotator(1, "style", "random")) != orders(HostileAnnotator(2, "style", "random"))


def test_a_crowd_has_the_asked_share_of_each_kind():
    people = hostile.crowd("style", count=10, hostile_share=0.4)
    assert [getattr(person, "kind", "") for person in people] == [""] * 6 + list(hostile.KINDS)
    assert len({person.seed for person in people}) == 10
    with pytest.raises(ValueError, match="lazy"):
        HostileAnnotator(1, "style", "lazy")
