"""The baseline to beat: a Bradley-Terry reward model on a bag of one- and two-word phrases, in numpy.

It sees the completion alone. A prompt's own words would cancel in every comparison, which are all between completions
of one prompt, so only a model that relates prompt and completion can learn a taste bound to the prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np


def phrases(text: str) -> Counter[str]:
    """How often each word, full stop and pair of neighbours occurs, in lower case."""
    tokens = re.findall(r"\w+|[^\w\s]", text.lower())
    return Counter(tokens) + Counter(f"{a} {b}" for a, b in pairwise(tokens))


@dataclass(frozen=True, slots=True)
class BagOfWords:
    """A fitted baseline: score(text) is the sum of its phrases' weights."""

    weights: dict[str, float]

    def score(self, text: str) -> float:
        return sum(self.weights.get(phrase, 0.0) * count for phrase, count in phrases(text).items())

    def accuracy(self, comparisons: Sequence[tuple[str, str, str]]) -> float:
        """The share of (prompt, chosen, rejected) comparisons whose chosen text scores higher; ties count half."""
        if not comparisons:
            raise ValueError("comparisons is empty; an accuracy needs at least one")
        gaps = np.array([self.score(chosen) - self.score(rejected) for _, chosen, rejected in comparisons])
        return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def fit(
    comparisons: Sequence[tuple[str, str, str]], *, l2: float = 3e-3, min_count: int = 5, steps: int = 200
) -> BagOfWords:
    """Minimises mean -log sigmoid(score(chosen) - score(rejected)) + l2 |w|^2 / 2 by accelerated gradient descent.

    comparisons: (prompt, chosen, rejected). Phrases in fewer than min_count comparisons are left out.
    """
    if not comparisons:
        raise ValueError("comparisons is empty; the baseline needs at least one to learn from")
    differences = []
    for _, chosen, rejected in comparisons:
        difference = phrases(chosen)
        difference.subtract(phrases(rejected))
        differences.append({phrase: count for phrase, count in difference.items() if count})
    seen = Counter(phrase for difference in differences for phrase in difference)
    vocabulary = {phrase: i for i, phrase in enumerate(sorted(p for p, n in seen.items() if n >= min_count))}
    entries = [
        (row, vocabulary[phrase], count)
        for row, difference in enumerate(differences)
        for phrase, count in difference.items()
        if phrase in vocabulary
    ]
    if not entries:
        return BagOfWords({})
    table = np.array(entries, dtype=np.float64)
    rows, columns, counts = table[:, 0].astype(np.intp), table[:, 1].astype(np.intp), table[:, 2]
    weights = _descend(rows, columns, counts, len(differences), len(vocabulary), l2, steps)
    return BagOfWords({phrase: float(weights[i]) for phrase, i in vocabulary.items()})


def _descend(rows, columns, counts, n_rows: int, n_columns: int, l2: float, steps: int) -> np.ndarray:
    """Nesterov's method on a sparse logistic regression, with the step its curvature allows."""

    def gaps(weights):
        return np.bincount(rows, counts * weights[columns], n_rows)

    def pull(residuals):
        return np.bincount(columns, counts * residuals[rows], n_columns)

    direction = np.ones(n_columns)
    for _ in range(20):  # power iteration: the largest curvature of the loss is at most a quarter of X'X / n
        direction = pull(gaps(direction)) / n_rows
        curvature = np.linalg.norm(direction)
        direction /= curvature
    rate = 1.0 / (1.1 * curvature / 4 + l2)
    weights = lookahead = np.zeros(n_columns)
    for step in range(steps):
        slope = -pull(1.0 / (1.0 + np.exp(np.clip(gaps(lookahead), -50, 50)))) / n_rows + l2 * lookahead
        moved = lookahead - rate * slope
        lookahead = moved + step / (step + 3) * (moved - weights)
        weights = moved
    return weights
