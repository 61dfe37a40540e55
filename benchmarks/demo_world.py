"""Prints what the demo world offers: each gold's spread, headroom, annotators' agreement and the baseline to beat.

python benchmarks/demo_world.py [--prompts 1000] [--rankings 3000]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import fmean, pstdev

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))

from plumbline.demo import annotators, bag_of_words, world
from plumbline.demo.golds import GOLDS, Gold


def measure(gold: Gold, n_prompts: int, n_rankings: int) -> dict[str, float]:
    """One row of the table."""
    draws = annotators.corpus_draws(n_prompts, 16, seed=1, pool="eval")
    scores = np.array([[gold.score(prompt, text) for text in texts] for prompt, texts in draws])
    lengths = np.array([[len(text.split()) for text in texts] for _, texts in draws])
    train = annotators.labelled_comparisons(gold, n_prompts=n_rankings, seed=2)
    fresh = annotators.labelled_comparisons(gold, n_prompts=1000, seed=3, pool="eval")
    baseline = bag_of_words.fit(train)
    return {
        "mean": scores.mean(),
        "sd": scores.std(),
        "best of 4": scores[:, :4].max(1).mean(),
        "best of 16": scores.max(1).mean(),
        "ties": np.mean(scores[:, 0] == scores[:, 1]),
        "length r": np.corrcoef(scores.ravel(), lengths.ravel())[0, 1],
        "agreement": annotators.agreement(gold),
        "ceiling": annotators.ceiling(gold, fresh),
        "bag of words": baseline.accuracy(fresh),
        "bag, gold order": gold_accuracy(baseline, gold, draws),
    }


def gold_accuracy(baseline: bag_of_words.BagOfWords, gold: Gold, draws) -> float:
    """The baseline's accuracy on the gold's own strict order of each prompt's first two stories."""
    ordered = []
    for prompt, texts in draws:
        for better, worse in annotators.comparisons(annotators.gold_order(gold, prompt, texts[:2])):
            ordered.append((prompt, texts[better], texts[worse]))
    return baseline.accuracy(ordered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--rankings", type=int, default=3000)
    arguments = parser.parse_args()
    print("prompts a pool:", {pool: len(world.prompts(pool)) for pool in world.POOLS})
    lengths = [len(f"{p} {s}".replace(".", " .").split()) for p, s in world.pairs(3000, 1)]
    print(f"words and full stops, mean {fmean(lengths):.1f} sd {pstdev(lengths):.1f} max {max(lengths)}")
    for i, gold in enumerate(GOLDS.values()):
        row = measure(gold, arguments.prompts, arguments.rankings)
        if i == 0:
            print(f"{'gold':14}" + "".join(f"{name:>16}" for name in row))
        print(f"{gold.name:14}" + "".join(f"{value:16.3f}" for value in row.values()))


if __name__ == "__main__":
    main()
