"""How much each annotator's comparisons are to be believed: Bradley-Terry with annotator reliability.

CrowdBT (Chen, Bennett, Collins-Thompson, Horvitz: Pairwise ranking aggregation in a crowdsourced setting, WSDM 2013).
Departures:
- An annotator is judged by scores that were fitted without them. The paper has hundreds of comparisons an item; with
  the two or three rankings a task of ours, scores fitted to everybody's comparisons would prove everybody right.
- Weights for training are made from the reliabilities; the paper asks for the order alone.
- A known answer is a judge of fixed reliability. The scores' prior is Gaussian instead of a virtual node.
- The reliabilities' prior is centred on the crowd, so that somebody of whom little is known counts as usual.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from annotation.agreement import by_task
from annotation.suspicion import GOLD

GOLD_RELIABILITY = 0.99
START = 0.9  # near 1/2 the fit would not know which side is the crowd's
SCORE_DEVIATION = 2.5  # of the prior of a score
PRIOR_COMPARISONS = 5  # how many comparisons the prior of a reliability is worth
STEPS = 12
LEAST_TASKS = 8  # shared with others before a weight may differ from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """Comparisons (N,) between items, each judged by somebody; an item is an answer as seen without one judge."""

    winner: np.ndarray  # (N,) item
    loser: np.ndarray  # (N,) item
    judge: np.ndarray  # (N,) index of the judge
    weight: np.ndarray  # (N,) those of one ranking are not independent: together they weigh its tie groups less one

    @classmethod
    def of(cls, rows):
        columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
        return cls(
            winner=np.array(columns[0], dtype=np.int64),
            loser=np.array(columns[1], dtype=np.int64),
            judge=np.array(columns[2], dtype=np.int64),
            weight=np.array(columns[3], dtype=np.float64),
        )


def fit_reliabilities(judgments, *, distrusted=()):
    """{annotator: (reliability in (0, 1), tasks shared with others)} of those who share tasks.

    distrusted: annotators whose word on others counts for nothing, such as those under suspicion; a ring of people who
    agree with each other would else prop itself up.

    Annotator k puts i before j with the chance eta_k sigma(s_i - s_j) + (1 - eta_k) sigma(s_j - s_i): eta 1 follows
    the scores, 1/2 is a coin, 0 reverses them. Scores by L-BFGS given eta and eta by Newton's method
    given scores take turns.
    """
    own, others, judges, shared, n_items = encode(judgments)
    if not len(own.winner):
        return {}
    eta = np.array([GOLD_RELIABILITY if judge == GOLD else START for judge in judges])
    people = np.array([judge != GOLD for judge in judges])
    heard = np.array([judge not in distrusted for judge in judges])
    scores = np.zeros(n_items)
    for _step in range(STEPS):
        scores = fit_scores(others, np.where(heard, eta, 0.5), scores)
        before, eta = eta, np.where(people, fit_eta(own, scores, eta, people & heard), eta)
        if np.abs(eta - before).max() < 1e-3:
            break
    return {
        judge: (float(value), len(shared[judge])) for judge, value in zip(judges, eta, strict=True) if judge != GOLD
    }


def encode(judgments):
    """(own, others): each person's comparisons of tasks judged by others too, and those others' of the same items.

    Further: the judges, {judge: tasks shared}, and how many items there are.
    """
    items, judges, shared = {}, {}, defaultdict(set)
    own, others = [], []
    for task, found in by_task(judgments).items():
        listed = [(judgment.annotator, pairs_of(judgment)) for judgment in found]
        weights_of = {judgment.annotator: len(set(judgment.places.values())) - 1 for judgment in found}
        listed = [(judge, pairs) for judge, pairs in listed if pairs]
        if len({judge for judge, _pairs in listed}) < 2:
            continue
        for left_out, _pairs in listed:
            if left_out == GOLD:
                continue
            shared[left_out].add(task)
            for judge, pairs in listed:
                number = judges.setdefault(judge, len(judges))
                weight = weights_of[judge] / len(pairs)
                rows = own if judge == left_out else others
                for better, worse in pairs:
                    winner = items.setdefault((task, left_out, better), len(items))
                    loser = items.setdefault((task, left_out, worse), len(items))
                    rows.append((winner, loser, number, weight))
    return Comparisons.of(own), Comparisons.of(others), list(judges), shared, len(items)


def pairs_of(judgment):
    """(better, worse) answers of each comparison of a Judgment."""
    places = judgment.places.items()
    return [(better, worse) for better, high in places for worse, low in places if high < low]


def fit_scores(comparisons, eta, start):
    """Scores (items,) that make the comparisons most likely given the judges' reliabilities, under the prior."""
    trust = 2 * eta[comparisons.judge] - 1
    n_items = len(start)

    def loss(scores):
        ahead = expit(scores[comparisons.winner] - scores[comparisons.loser])
        chance = np.maximum((1 + trust * (2 * ahead - 1)) / 2, 1e-12)
        total = -(comparisons.weight * np.log(chance)).sum() + (scores**2).sum() / (2 * SCORE_DEVIATION**2)
        slope = -comparisons.weight / chance * trust * ahead * (1 - ahead)
        gradient = np.bincount(comparisons.winner, slope, n_items) - np.bincount(comparisons.loser, slope, n_items)
        return total, gradient + scores / SCORE_DEVIATION**2

    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 50, "ftol": 1e-6}).x


def fit_eta(comparisons, scores, eta, crowd):
    """Reliabilities (judges,) given scores, by Newton's method: the likelihood is concave in each eta by itself.

    crowd: (judges,) those whose median the prior is centred on.
    """
    usual = float(np.median(eta[crowd])) if crowd.any() else START
    above, below = PRIOR_COMPARISONS * usual, PRIOR_COMPARISONS * (1 - usual)
    trust = 2 * eta - 1
    # The chance of a comparison is (1 + trust lead) / 2.
    lead = 2 * expit(scores[comparisons.winner] - scores[comparisons.loser]) - 1
    for _step in range(15):
        share = lead / (1 + trust[comparisons.judge] * lead)
        slope = np.bincount(comparisons.judge, comparisons.weight * share, len(eta))
        slope += above / (1 + trust) - below / (1 - trust)
        bend = np.bincount(comparisons.judge, comparisons.weight * share**2, len(eta))
        bend += above / (1 + trust) ** 2 + below / (1 - trust) ** 2
        trust = np.clip(trust + slope / bend, -0.999, 0.999)
    return (1 + trust) / 2


def weights(reliabilities):
    """{annotator: weight in [0, 1] of each ranking in training}.

    max(0, 2 eta - 1), what a comparison by this annotator tells beside one by an infallible judge, over the crowd's
    median, at most 1: usual people weigh 1, a coin 0, and one who reverses is left out, never turned round.
    """
    judged = {person: eta for person, (eta, tasks) in reliabilities.items() if tasks >= LEAST_TASKS}
    if not judged:
        return {}
    usual = max(2 * float(np.median(list(judged.values()))) - 1, 0.1)
    return {person: round(min(1.0, max(0.0, 2 * eta - 1) / usual), 4) for person, eta in judged.items()}
