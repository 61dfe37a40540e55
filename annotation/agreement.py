"""How far judgments of the same answers agree: pairs ordered alike, Kendall's tau-b, and their 95% intervals.

Pure functions over `Judgment`s, without Django. tau-b is computed from the counts of pairs that every figure here needs
anyway; a test holds it against SciPy's, whose import would cost each web process some 90 MB.
"""

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations
from statistics import fmean

Z = 1.959964  # 95%
INSTRUCTGPT_AGREEMENT = 0.726  # of its labelers with each other (arXiv:2203.02155, section 3.4): for orientation


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgment:
    """One order of one task's answers."""

    task: Hashable
    annotator: Hashable
    places: Mapping  # answer -> index of its tie group, best first; an answer left out of the order has none
    presented: tuple = ()  # answers in the order shown
    lengths: Mapping = field(default_factory=dict)  # answer -> characters
    seconds: float | None = None
    at: float = 0.0  # seconds since the epoch
    id: Hashable = None


def places_of(order):
    """{answer: index of its tie group} of tie groups, best first."""
    return {answer: index for index, group in enumerate(order) for answer in group}


def comparisons(order):
    """(chosen, rejected) ids of each comparison in tie groups, best first; ties give none."""
    for better, group in enumerate(order):
        for worse in order[better + 1 :]:
            for chosen in group:
                for rejected in worse:
                    yield chosen, rejected


def count_comparisons(order):
    return sum(1 for _pair in comparisons(order))


def clustered_share(clusters):
    """(share, low, high) of successes over trials, 95%, or three times None.

    clusters: (successes, trials) of each independent unit, such as a prompt; trials within one are not independent.
    A Wilson interval on as many trials as would give the ratio estimator's variance if they were independent.
    """
    clusters = [(successes, trials) for successes, trials in clusters if trials]
    total = sum(trials for _successes, trials in clusters)
    if not total:
        return None, None, None
    share = sum(successes for successes, _trials in clusters) / total
    count = len(clusters)
    effective = float(count)
    if count > 1 and 0 < share < 1:
        spread = sum((successes - share * trials) ** 2 for successes, trials in clusters)
        variance = spread / total**2 * count / (count - 1)
        # Fewer than one unit a cluster or more than all trials would be chance, not knowledge.
        effective = min(max(share * (1 - share) / variance, 1.0), float(total)) if variance > 0 else float(count)
    centre = (share + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * math.sqrt(share * (1 - share) / effective + Z**2 / (4 * effective**2))
    return share, max(0.0, centre - half), min(1.0, centre + half)


def clustered_mean(clusters):
    """(mean, low, high) over all values of the clusters, 95%, within [-1, 1]; three times None without a value.

    clusters: lists of numbers in [-1, 1], a list for each independent unit. Linearised variance of the ratio; from one
    cluster alone nothing is known about the spread, so the interval is all of [-1, 1].
    """
    clusters = [values for values in clusters if values]
    total = sum(map(len, clusters))
    if not total:
        return None, None, None
    mean = sum(map(sum, clusters)) / total
    count = len(clusters)
    if count == 1:
        return mean, -1.0, 1.0
    spread = sum((sum(values) - mean * len(values)) ** 2 for values in clusters)
    half = Z * math.sqrt(spread * count / (count - 1)) / total
    return mean, max(-1.0, mean - half), min(1.0, mean + half)


@lru_cache(maxsize=100_000)
def count_pairs(one, other):
    """(alike, opposite, tied only in one, tied only in the other): pairs of two tuples of places, position by position.

    Cached: orders of at most nine answers repeat all the time.
    """
    alike = opposite = tied_one = tied_other = 0
    for a, b in combinations(range(len(one)), 2):
        first, second = one[a] - one[b], other[a] - other[b]
        if first and second:
            alike += (first < 0) == (second < 0)
            opposite += (first < 0) != (second < 0)
        else:
            tied_one += bool(second)
            tied_other += bool(first)
    return alike, opposite, tied_one, tied_other


def compare(one, other):
    """count_pairs of two {answer: place} over the answers that both have."""
    shared = [answer for answer in one if answer in other]
    return count_pairs(tuple(one[answer] for answer in shared), tuple(other[answer] for answer in shared))


def tau_b(one, other):
    """Kendall's tau-b of two {answer: place} over the answers that both have, or None where one of them is all ties.

    (alike - opposite) / sqrt((all - tied in one) (all - tied in the other)), "all" being pairs (Kendall 1945).
    """
    alike, opposite, tied_one, tied_other = compare(one, other)
    size = (alike + opposite + tied_one) * (alike + opposite + tied_other)
    return (alike - opposite) / math.sqrt(size) if size else None


def by_task(judgments):
    """{task: its judgments}"""
    found = defaultdict(list)
    for judgment in judgments:
        found[judgment.task].append(judgment)
    return found


def couples(judgments):
    """(one, other) of each two judgments of a task by different people."""
    for rows in by_task(judgments).values():
        for one, other in combinations(rows, 2):
            if one.annotator != other.annotator:
                yield one, other


def pairwise_agreement(judgments):
    """How often two people put a pair of answers in the same order, where both prefer one of the two.

    {"agreement", "low", "high", "pairs", "tau", "tau_low", "tau_high"}: shares in [0, 1], tau-b in [-1, 1], 95%
    intervals by task; None where nothing was judged twice.
    """
    shares, taus = defaultdict(lambda: [0, 0]), defaultdict(list)
    for one, other in couples(judgments):
        alike, opposite, *_ties = compare(one.places, other.places)
        shares[one.task][0] += alike
        shares[one.task][1] += alike + opposite
        tau = tau_b(one.places, other.places)
        if tau is not None:
            taus[one.task].append(tau)
    share, low, high = clustered_share(shares.values())
    tau, tau_low, tau_high = clustered_mean(taus.values())
    pairs = sum(trials for _alike, trials in shares.values())
    return {
        "agreement": share,
        "low": low,
        "high": high,
        "pairs": pairs,
        "tau": tau,
        "tau_low": tau_low,
        "tau_high": tau_high,
    }


def task_agreement(rows):
    """The share of pairs that the judgments of one task order alike, or None where there is nothing to compare."""
    counts = [compare(one.places, other.places)[:2] for one, other in couples(rows)]
    trials = sum(map(sum, counts))
    return sum(alike for alike, _opposite in counts) / trials if trials else None


def shares_with_others(judgments):
    """{annotator: [(alike, compared) a task]}: each one's pairs beside everybody else's on the same task.

    In the order in which the annotator judged the tasks, whenever the others came to them.
    """
    found = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    judged_at = {}
    for one, other in couples(judgments):
        alike, opposite, *_ties = compare(one.places, other.places)
        for judgment in (one, other):
            found[judgment.annotator][judgment.task][0] += alike
            found[judgment.annotator][judgment.task][1] += alike + opposite
            judged_at[judgment.annotator, judgment.task] = judgment.at
    return {
        annotator: [tasks[task] for task in sorted(tasks, key=lambda task: judged_at[annotator, task])]
        for annotator, tasks in found.items()
    }


def position_taus(judgments):
    """{annotator: [tau-b of the order with the places on the page]}: above 0, early cards are preferred."""
    found = defaultdict(list)
    for judgment in judgments:
        tau = tau_b(judgment.places, places_of([answer] for answer in judgment.presented))
        if tau is not None:
            found[judgment.annotator].append(tau)
    return found


def length_taus(judgments):
    """{annotator: [tau-b of the order with the lengths]}: above 0, longer answers are preferred."""
    found = defaultdict(list)
    for judgment in judgments:
        tau = tau_b(judgment.places, {answer: -length for answer, length in judgment.lengths.items()})
        if tau is not None:
            found[judgment.annotator].append(tau)
    return found


def drift(judgments_with_share):
    """(change, low, high): the share of pairs ordered as others do, later half less earlier half, or None.

    judgments_with_share: (alike, compared) a task, oldest first. Normal approximation, the halves independent.
    """
    middle = len(judgments_with_share) // 2
    if middle < 5:
        return None
    halves = []
    for part in (judgments_with_share[:middle], judgments_with_share[middle:]):
        values = [alike / compared for alike, compared in part if compared]
        if len(values) < 5:
            return None
        mean = fmean(values)
        halves.append((mean, sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)))
    (early, early_variance), (late, late_variance) = halves
    half = Z * math.sqrt(early_variance + late_variance)
    return late - early, late - early - half, late - early + half
