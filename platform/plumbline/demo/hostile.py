"""Simulated annotators who do not do what they are asked: what the quality rules are measured against.

Each works at a person's pace and gives whole orders, so that only the orders themselves can betray it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from .annotators import SimulatedAnnotator

KINDS = ("random", "reversed", "length", "colluding")


class HostileAnnotator(SimulatedAnnotator):
    """Ranks against the interest of the project.

    kind: random (a new order each time), reversed (the own honest order turned round), length (longest first),
    colluding (an arbitrary order of the texts that all colluders share, as if agreed upon elsewhere).
    """

    def __init__(self, seed: int, gold, kind: str):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} must be one of: {', '.join(KINDS)}")
        super().__init__(seed, gold)
        self.kind = kind

    def rank(self, prompt_text: str, texts: Sequence[str]) -> list[list[int]]:
        if self.kind == "reversed":
            return super().rank(prompt_text, texts)[::-1]
        return [[index] for index in sorted(range(len(texts)), key=lambda i: self._key(prompt_text, texts, i))]

    def _key(self, prompt_text, texts, index):
        if self.kind == "length":
            return -len(texts[index]), index
        if self.kind == "random":
            return self._stream(f"random {index}", prompt_text, *texts).random()
        return shared_whim(texts[index])


def shared_whim(text: str) -> float:
    """The same number for the same text, whoever asks."""
    return random.Random(f"whim {text}".encode("utf-8", "surrogatepass")).random()


def crowd(gold, *, count: int, hostile_share: float = 0.0, kinds: Sequence[str] = KINDS, seed: int = 0):
    """`count` annotators, the last round(count * hostile_share) of them hostile, the kinds taking turns."""
    n_hostile = round(count * hostile_share)
    people: list[SimulatedAnnotator] = [SimulatedAnnotator(seed * 1000 + i, gold) for i in range(count - n_hostile)]
    people += [
        HostileAnnotator(seed * 1000 + count - n_hostile + i, gold, kinds[i % len(kinds)]) for i in range(n_hostile)
    ]
    return people
