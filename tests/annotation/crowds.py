"""Crowds of made-up annotators: each sees the answers' true values through noise of the own."""

import random

from annotation.agreement import Judgment, places_of


def judge(rng, values, noise, *, sign=1):
    """Places of answers whose true values are seen through Gaussian noise; sign -1 turns the order round."""
    seen = {answer: sign * (value + rng.gauss(0, noise)) for answer, value in values.items()}
    return places_of([answer] for answer in sorted(seen, key=lambda answer: -seen[answer]))


def agreed_order(rng, values):
    """An order that has nothing to do with the answers' values, and that everybody in the ring gives."""
    whims = {answer: random.Random(f"ring {answer}").random() for answer in values}
    return places_of([answer] for answer in sorted(values, key=whims.get))


def crowd(*, honest=16, hostile=4, tasks=200, overlap=3, k=4, seed=0, order=None, **fields):
    """Judgments of `tasks` tasks by people 0, 1, …, the last `hostile` of whom give order(rng, values).

    order: by default a random one. fields: further fields of every Judgment. Honest people differ in their noise.
    """
    rng = random.Random(seed)
    noise = [rng.uniform(0.6, 1.2) for _ in range(honest)]
    found = []
    for task in range(tasks):
        values = {f"{task}-{answer}": rng.gauss(0, 1) for answer in range(k)}
        for person in rng.sample(range(honest + hostile), overlap):
            if person < honest:
                places = judge(rng, values, noise[person])
            elif order is None:
                places = judge(rng, dict.fromkeys(values, 0), 1)
            else:
                places = order(rng, values)
            presented = list(values)
            rng.shuffle(presented)
            found.append(Judgment(task=task, annotator=person, places=places, presented=tuple(presented), **fields))
    return found
