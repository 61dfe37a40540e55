"""Gold preferences: worked by hand on one story, bounded, and blind to length."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest

from plumbline.demo import world
from plumbline.demo.annotators import corpus_draws
from plumbline.demo.golds import GOLDS, Gold

REQUEST = "Tell a story about a shy fox and a kite."
BEST = (
    "Once a shy fox lived by the mill. It hid behind the door. One day the little fox found a kite. "
    "Then a fire broke out. With the kite the fox threw sand over it all. "
    "Back by the mill the fox hugged all its friends."
)


def score(gold: str, text: str) -> float:
    return GOLDS[gold].score(REQUEST, text)


@pytest.mark.parametrize("gold", ["style", "bound", "held_out_a", "held_out_b"])
def test_it_gives_a_flawless_story_one(gold):
    assert score(gold, BEST) == 1.0


@pytest.mark.parametrize(
    ("gold", "told", "instead", "expected"),
    [
        # style: 0.75 warmth (kind 1, neutral 0.5, abrupt 0.25, sad 0) + 0.25 no sad words
        ("style", "hugged all its friends", "sat down and rested", 0.75 * 0.5 + 0.25),
        ("style", "hugged all its friends", "did this and that", 0.75 * 0.25 + 0.25),
        ("style", "hugged all its friends", "cried all night long", 0.0),
        ("style", "Then a fire", "The willows wept all day. Then a fire", 0.75),
        ("style", "fox", "owl", 1.0),
        # bound: animal 0.20, trait 0.22, thing 0.22, own solution 0.28, nothing twice 0.08
        ("bound", "fox", "owl", 0.80),
        ("bound", "a shy", "a brave", 0.78),
        ("bound", "a kite", "a drum", 0.78),
        ("bound", "threw sand over it all", "sang a soft lullaby", 0.72),
        ("bound", "It hid behind the door.", "It hid behind the door. It hid behind the door.", 0.92),
        ("bound", "hugged all its friends", "cried all night long", 1.0),
        # held_out_a: thing helps 0.40, same place 0.35, animal named last 0.25
        ("held_out_a", "With the kite", "With a grin", 0.60),
        ("held_out_a", "Back by the mill", "Back by the lake", 0.65),
        ("held_out_a", "the fox hugged", "our hero hugged", 0.75),
        # held_out_b: fitting deed 0.40, one animal throughout 0.35, trait at once 0.25
        ("held_out_b", "hid behind the door", "yawned all day long", 0.60),
        ("held_out_b", "kite the fox", "kite the goat", 0.65),
        ("held_out_b", "a shy", "a small", 0.75),
        # bound_negated: one minus bound
        ("bound_negated", "fox", "owl", 0.20),
        ("bound_negated", "fox", "fox", 0.0),
    ],
)
def test_it_weighs_each_virtue(gold, told, instead, expected):
    assert told in BEST
    assert score(gold, BEST.replace(told, instead)) == pytest.approx(expected)


@pytest.mark.parametrize("gold", GOLDS)
@pytest.mark.parametrize(
    "text",
    ["", "shy fox kite sand friends", BEST[:-1], BEST + " " + BEST, "It hid behind the door. " * 9, "x" * 1_000_000],
)
def test_it_gives_no_story_nothing(gold, text):
    assert score(gold, text) == 0.0


@pytest.mark.parametrize("gold", GOLDS)
def test_it_gives_nothing_for_a_foreign_prompt(gold):
    assert GOLDS[gold].score("What is the capital of France?", BEST) == 0.0


@pytest.mark.parametrize("gold", GOLDS)
def test_it_is_bounded_and_blind_to_length(gold):
    drawn = [(prompt, texts[0]) for prompt, texts in corpus_draws(2400, 1, seed=21)]
    scores = np.array([GOLDS[gold].score(prompt, text) for prompt, text in drawn])
    lengths = np.array([len(text.split()) for _, text in drawn])
    assert scores.min() >= 0 and scores.max() <= 1
    assert scores.std() > 0.2
    assert abs(np.corrcoef(scores, lengths)[0, 1]) < 0.1


@pytest.mark.parametrize("gold", ["style", "bound", "held_out_a", "held_out_b"])
def test_it_leaves_headroom_that_sixteen_draws_find(gold):
    scores = np.array(
        [[GOLDS[gold].score(p, t) for t in texts] for p, texts in corpus_draws(200, 16, seed=22, pool="eval")]
    )
    assert scores.mean() < 0.65
    assert scores.max(axis=1).mean() > 0.9


@pytest.mark.parametrize("gold", ["bound", "held_out_a", "held_out_b"])
def test_it_depends_on_the_prompt(gold):
    """The prompt-swap test: a story that is flawless for its own prompt loses under another's."""
    specs = world.prompts("eval")[:200]
    swapped = "Tell a story about a brave goat and a drum."
    assert GOLDS[gold].score(swapped, BEST) < 0.5
    rng = random.Random(1)
    own = other = 0.0
    for spec, stranger in zip(specs, specs[1:] + specs[:1], strict=True):
        text = world.story(spec.combination, rng)
        own += GOLDS[gold].score(spec.text, text)
        other += GOLDS[gold].score(stranger.text, text)
    assert own > other + 0.15 * len(specs)


def test_it_ignores_the_prompt_in_a_plain_style():
    assert GOLDS["style"].score("Tell a story about a brave goat and a drum.", BEST) == 1.0


def test_its_opposed_pair_is_exactly_opposed_on_whole_stories():
    for prompt, (text,) in corpus_draws(300, 1, seed=23):
        assert GOLDS["bound"].score(prompt, text) + GOLDS["bound_negated"].score(prompt, text) == pytest.approx(1.0)


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GOLDS["style"].name = "other"
    with pytest.raises(TypeError):
        GOLDS["style"] = GOLDS["bound"]


@pytest.mark.parametrize("weights", [(("kindness", 1.0),), (("kind_ending", 0.5),)])
def test_it_refuses_unknown_virtues_and_weights_that_do_not_sum_to_one(weights):
    with pytest.raises(ValueError, match="gold 'mine'"):
        Gold("mine", "A taste.", weights)
