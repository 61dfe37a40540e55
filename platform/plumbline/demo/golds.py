"""Gold preferences: hidden tastes that simulated annotators share and that training never sees.

A gold reads a story with the world's parser and weighs virtues that lie in [0, 1]. Text that is no whole story of the
language scores 0 under every gold, the negated one included: nobody can win by gibberish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .world import Parse, parse

_WARMTH = {"kind": 1.0, "neutral": 0.5, "abrupt": 0.25, "sad": 0.0}

VIRTUES: Mapping[str, Callable[[Parse], float]] = MappingProxyType(
    {
        "animal_kept": lambda p: float(p.animal_kept),
        "trait_kept": lambda p: float(p.trait_kept),
        "thing_kept": lambda p: float(p.thing_kept),
        "own_solution": lambda p: float(p.own_solution),
        "no_repeats": lambda p: float(p.repeats == 0),
        "kind_ending": lambda p: _WARMTH.get(p.ending, 0.0),
        "no_sad_words": lambda p: float(p.sad_words == 0),
        "thing_helps": lambda p: float(p.thing_helps),
        "place_kept": lambda p: float(p.place_kept),
        "ends_on_animal": lambda p: float(p.ends_on_animal),
        "deed_fits": lambda p: float(p.deed_fits),
        "animal_steady": lambda p: float(p.animal_steady),
        "trait_early": lambda p: float(p.trait_early),
    }
)


@dataclass(frozen=True, slots=True)
class Gold:
    """One hidden taste: the weighted mean of some virtues, or one minus it."""

    name: str
    description: str  # one sentence for people
    weights: tuple[tuple[str, float], ...]  # (name in VIRTUES, weight); the weights sum to 1
    negated: bool = False

    def __post_init__(self):
        unknown = [virtue for virtue, _ in self.weights if virtue not in VIRTUES]
        total = sum(weight for _, weight in self.weights)
        if unknown or not math.isclose(total, 1.0):
            raise ValueError(f"gold {self.name!r}: unknown virtues {unknown}, weights sum to {total}, not to 1")

    def score(self, prompt_text: str, completion_text: str) -> float:
        """How good the completion is for this prompt, in [0, 1]; 0 for what is no whole story or a foreign prompt."""
        return self.score_parse(parse(prompt_text, completion_text))

    def score_parse(self, story: Parse | None, weights: Mapping[str, float] | None = None) -> float:
        """The score of a story already read; weights, summing to 1, replace the gold's own (an annotator's taste)."""
        if story is None or not story.well_formed:
            return 0.0
        weighed = dict(self.weights) if weights is None else weights
        # Rounded so that equal stories tie exactly, whatever order the weights are added in.
        good = round(sum(weight * VIRTUES[virtue](story) for virtue, weight in weighed.items()), 9)
        good = min(1.0, max(0.0, good))
        return round(1.0 - good, 9) if self.negated else good


_BOUND = (
    ("animal_kept", 0.20),
    ("trait_kept", 0.22),
    ("thing_kept", 0.22),
    ("own_solution", 0.28),
    ("no_repeats", 0.08),
)

GOLDS: Mapping[str, Gold] = MappingProxyType(
    {
        gold.name: gold
        for gold in (
            Gold(
                "style",
                "Likes stories that end kindly and use no sad words, whatever was asked for.",
                (("kind_ending", 0.75), ("no_sad_words", 0.25)),
            ),
            Gold(
                "bound",
                "Likes stories that keep the requested animal, trait and thing, solve the problem by a solution that "
                "fits it, and say nothing twice.",
                _BOUND,
            ),
            Gold(
                "held_out_a",
                "Likes stories in which the requested thing helps to solve the problem, that end where they began, and "
                "whose last sentence names the requested animal.",
                (("thing_helps", 0.40), ("place_kept", 0.35), ("ends_on_animal", 0.25)),
            ),
            Gold(
                "held_out_b",
                "Likes stories that name the requested trait at once, show it by a fitting deed, and stay with the "
                "requested animal throughout.",
                (("deed_fits", 0.40), ("animal_steady", 0.35), ("trait_early", 0.25)),
            ),
            Gold(
                "bound_negated",
                "Likes whole stories that do the opposite of what was asked: the exact reverse of bound.",
                _BOUND,
                negated=True,
            ),
        )
    }
)
