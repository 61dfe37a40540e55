"""Simulated annotators: a gold preference seen through a taste, noise and two biases of each one's own.

Their judgments are always called simulated. The noise is set from each gold's spread over the corpus, so that two
annotators agree on about 73% of the pairs that both put in an order, as people do (InstructGPT, arXiv:2203.02155).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, pstdev

from .golds import GOLDS, Gold
from .world import parse, prompts, story

TARGET_AGREEMENT = 0.73
# Ties, which are left out of the agreement, would raise it; taste and biases lower it: this factor makes up for both.
_NOISE_SHARE = 1.01
_TASTE_SPREAD = 0.25
# All in units of the gold's standard deviation over corpus stories.
_TIE_WIDTH = 0.06
_POSITION_MEAN, _POSITION_SPREAD = 0.05, 0.05
_LENGTH_SPREAD = 0.08
_USUAL_WORDS, _WORDS_SPREAD = 48, 6


def corpus_draws(n_prompts: int, per_prompt: int, seed: int, pool: str = "reward") -> list[tuple[str, list[str]]]:
    """(prompt, stories) as the corpus would answer the first prompts of a pool, taken again when they run out."""
    rng = random.Random(f"draws {pool} {seed}")
    specs = prompts(pool)
    chosen = [specs[i % len(specs)] for i in range(n_prompts)]
    return [(spec.text, [story(spec.combination, rng) for _ in range(per_prompt)]) for spec in chosen]


@lru_cache(maxsize=64)
def spread(gold: Gold) -> float:
    """The gold's standard deviation over corpus stories."""
    draws = corpus_draws(800, 1, seed=11)
    return pstdev(gold.score(prompt, stories[0]) for prompt, stories in draws)


@lru_cache(maxsize=64)
def noise_for(gold: Gold, agreement: float = TARGET_AGREEMENT) -> float:
    """The standard deviation of an annotator's noise on one story at which two of them agree this often.

    With independent Gaussian noise of deviation s on each story, each puts a pair of gold difference d in the gold's
    order with probability p = Phi(d / (s sqrt 2)), and two agree with p^2 + (1 - p)^2; s is found by bisection.
    """
    pairs = [[gold.score(prompt, text) for text in stories] for prompt, stories in corpus_draws(1500, 2, seed=12)]
    gaps = [first - second for first, second in pairs]
    phi = NormalDist().cdf
    low, high = 1e-3 * spread(gold), 10 * spread(gold)
    for _ in range(30):
        middle = math.sqrt(low * high)
        chances = [phi(gap / (middle * math.sqrt(2))) for gap in gaps]
        agreed = sum(p * p + (1 - p) * (1 - p) for p in chances) / len(chances)
        low, high = (middle, high) if agreed > agreement else (low, middle)
    return _NOISE_SHARE * math.sqrt(low * high)


def tie_groups(values: Sequence[float], width: float = 0.0) -> list[list[int]]:
    """Indices in tie groups, the highest value first; neighbours at most `width` apart share a group."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and values[groups[-1][-1]] - values[i] <= width:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def gold_order(gold: Gold, prompt_text: str, texts: Sequence[str]) -> list[list[int]]:
    """The gold's own ranking: tie groups of indices into texts, best first."""
    return tie_groups([gold.score(prompt_text, text) for text in texts])


class SimulatedAnnotator:
    """Ranks completions as one imperfect person would. The same seed and the same cards give the same ranking.

    seed:  makes the person: taste, how much noise, position and length bias.
    gold:  a Gold or its name.
    noise: standard deviation of the noise on one story; by default what makes two annotators agree on 73% of pairs.
    """

    def __init__(self, seed: int, gold: Gold | str, *, noise: float | None = None):
        self.seed = seed
        self.gold = GOLDS[gold] if isinstance(gold, str) else gold
        person = random.Random(f"person {seed}")
        unit = spread(self.gold)
        tastes = {virtue: w * math.exp(person.gauss(0, _TASTE_SPREAD)) for virtue, w in self.gold.weights}
        total = sum(tastes.values())
        self.taste = {virtue: weight / total for virtue, weight in tastes.items()}
        self.noise = (noise_for(self.gold) if noise is None else noise) * math.exp(person.gauss(0, 0.1))
        self.position_bias = unit * person.gauss(_POSITION_MEAN, _POSITION_SPREAD)
        self.length_bias = unit * person.gauss(0, _LENGTH_SPREAD)
        self.tie_width = unit * _TIE_WIDTH

    def perceive(self, prompt_text: str, texts: Sequence[str]) -> list[float]:
        """How good each text, in the order shown, seems to this annotator now; not bounded."""
        moment = self._stream("moment", prompt_text, *texts)
        return [
            self._opinion(prompt_text, text) + self._bias(text, place, len(texts)) + moment.gauss(0, 0.5) * self.noise
            for place, text in enumerate(texts)
        ]

    def rank(self, prompt_text: str, texts: Sequence[str]) -> list[list[int]]:
        """Tie groups of indices into texts (which stand in the order shown), best first."""
        return tie_groups(self.perceive(prompt_text, texts), self.tie_width)

    def seconds_on_task(self, prompt_text: str, texts: Sequence[str]) -> float:
        """A log-normal working time: a quarter of a second a word, and a few seconds to decide."""
        clock = self._stream("clock", prompt_text, *texts)
        n_words = sum(len(text[:5000].split()) for text in (prompt_text, *texts))
        return round((4 + 0.25 * n_words) * math.exp(clock.gauss(0, 0.4)), 1)

    def _stream(self, purpose: str, *texts: str) -> random.Random:
        """Random numbers of this person's own for these texts, lone surrogates and all."""
        return random.Random("\n".join((purpose, str(self.seed), *texts)).encode("utf-8", "surrogatepass"))

    def _opinion(self, prompt_text: str, text: str) -> float:
        """What this person thinks of the text whenever they meet it; sqrt(3/4) of the noise, the moment has 1/2."""
        opinion = self._stream("opinion", prompt_text, text)
        valued = self.gold.score_parse(parse(prompt_text, text), self.taste)
        return valued + opinion.gauss(0, math.sqrt(0.75)) * self.noise

    def _bias(self, text: str, place: int, n_texts: int) -> float:
        early = 1 - 2 * place / (n_texts - 1) if n_texts > 1 else 0.0  # 1 for the first card, -1 for the last
        longer = (len(text[:5000].split()) - _USUAL_WORDS) / _WORDS_SPREAD
        return self.position_bias * early + self.length_bias * max(-2.0, min(2.0, longer))


def comparisons(order: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """(better, worse) index pairs of a ranking; ties make none."""
    return [
        (better, worse)
        for rank, group in enumerate(order)
        for lower in order[rank + 1 :]
        for better in group
        for worse in lower
    ]


def agreement(gold: Gold | str, *, n_prompts: int = 500, per_prompt: int = 4, seed: int = 0) -> float:
    """The share of pairs ordered alike by two annotators, among those that both order; 50 couples take turns."""
    gold = GOLDS[gold] if isinstance(gold, str) else gold
    alike = total = 0
    for i, (prompt, texts) in enumerate(corpus_draws(n_prompts, per_prompt, seed)):
        first, second = (SimulatedAnnotator(seed * 1000 + 2 * (i % 50) + j, gold) for j in (0, 1))
        ordered = set(comparisons(first.rank(prompt, texts)))
        for better, worse in comparisons(second.rank(prompt, texts)):
            alike += (better, worse) in ordered
            total += (better, worse) in ordered or (worse, better) in ordered
    return alike / total


def labelled_comparisons(
    gold: Gold | str, *, n_prompts: int, per_prompt: int = 4, seed: int = 0, annotators: int = 8, pool: str = "reward"
) -> list[tuple[str, str, str]]:
    """(prompt, chosen, rejected) from simulated rankings of corpus stories; the annotators take turns."""
    people = [SimulatedAnnotator(seed * 1000 + i, gold) for i in range(annotators)]
    found = []
    for i, (prompt, texts) in enumerate(corpus_draws(n_prompts, per_prompt, seed, pool)):
        order = people[i % annotators].rank(prompt, texts)
        found += [(prompt, texts[better], texts[worse]) for better, worse in comparisons(order)]
    return found


def ceiling(gold: Gold | str, labelled: Sequence[tuple[str, str, str]] | None = None) -> float:
    """The accuracy of the gold order itself on noisy labels, gold ties counted half: what no reward model can beat.

    labelled: (prompt, chosen, rejected); by default 1,000 simulated rankings of four corpus stories.
    """
    gold = GOLDS[gold] if isinstance(gold, str) else gold
    labelled = labelled_comparisons(gold, n_prompts=1000, seed=5) if labelled is None else labelled
    if not labelled:
        raise ValueError("labelled holds no comparison; a ceiling needs at least one")
    gaps = [gold.score(prompt, chosen) - gold.score(prompt, rejected) for prompt, chosen, rejected in labelled]
    return sum(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps) / len(gaps)
