"""Who does not judge as careful people do: a statistical rule with controlled false alarms (docs/metrics.md).

Pure functions over Judgments. Each check gives each annotator a p-value, the chance that a careful person would look
so bad; Benjamini-Hochberg over all annotators keeps the expected share of false alarms among those that the check
flags at ALPHA; and a difference that is certain but small is no reason to suspect anybody, so each check has a
practical limit as well.
"""

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from annotation.agreement import compare, couples, length_taus, position_taus, tau_b

ALPHA = 0.01  # and not 0.05, because the same people are looked at again and again as their judgments come in
GOLD = "gold"  # the annotator of Judgments that state a known answer
ROUNDS = 5  # of finding suspects and judging everybody else without them
LEAST_TASKS = 8  # shared with others, or with a known answer, before anybody is judged by them
LEAST_PEOPLE = 4  # from which a crowd tells what is usual; with fewer, only known answers count
LEAST_REPEATS = 4
LEAST_ORDERS = 20  # before habits of position, length and pace are judged
# What careful people are taken for where there is no crowd: InstructGPT's labelers agree on 72.6% of pairs, that is an
# alignment of sqrt(2 * 0.726 - 1) with what the task is about.
USUAL_ALIGNMENT, USUAL_SPREAD = 0.67, 0.12
MOST_HABIT = 0.3  # mean tau-b with position, or with length beyond the crowd's, that a taste may explain
FASTEST = 1 / 3  # of the usual seconds a task
LEAST_SAME = 0.8  # share of shared tasks with the very same order, before two people look like one
LEAST_SHARED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one check says of one annotator."""

    annotator: Hashable
    check: str  # alignment, consistency, position, length, pace or copying
    value: float
    usual: float
    tasks: int
    p: float  # chance that a careful person would look like this or worse
    is_large: bool  # whether the difference matters
    partner: Hashable = None


def find_suspects(judgments, *, repeats=()):
    """{annotator: [Reading that counts against them]}, worst first; those who are not suspected are left out.

    judgments: Judgments, known answers among them with the annotator GOLD. repeats: (Judgment, Judgment again).
    """
    people = [judgment for judgment in judgments if judgment.annotator != GOLD]
    meetings = Meetings.of(judgments)
    known_meetings = Meetings.of_known(judgments)
    taus = position_taus(people), length_taus(people), self_taus(repeats)
    copying = copying_readings(people)
    suspects = {}
    for _round in range(ROUNDS):
        # What is usual is told by those who are not suspected.
        readings = [
            *alignment_readings(meetings, known_meetings, suspects),
            *habit_readings("position", taus[0], None),
            *habit_readings("length", taus[1], suspects),
            *consistency_readings(taus[2], suspects),
            *pace_readings(people, suspects),
            *copying,
        ]
        found = defaultdict(list)
        for reading, p in adjusted(readings):
            if p <= ALPHA and reading.is_large:
                found[reading.annotator].append(reading)
        if found.keys() == suspects.keys():
            break
        suspects = dict(found)
    return suspects


def adjusted(readings):
    """(Reading, p after Benjamini-Hochberg over those of the same check), the smallest first."""
    found = []
    for check in {reading.check for reading in readings}:
        same = [reading for reading in readings if reading.check == check]
        found += zip(same, stats.false_discovery_control([reading.p for reading in same]), strict=True)
    return sorted(found, key=lambda pair: (pair[1], pair[0].check))


# How well somebody's orders fit the others'


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """How an annotator's orders align with what everybody's orders have in common."""

    value: float  # 1: always, 0: not at all, below 0: against it
    error: float  # standard error
    tasks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meetings:
    """Each time that somebody's order met another's: N of them, every couple of judgments seen from both sides."""

    people: list  # annotators
    cells: list  # (annotator's index, task) of each cell: one annotator on one task
    cell: np.ndarray  # (N,) index of the cell
    partner: np.ndarray  # (N,) index of the other annotator
    accord: np.ndarray  # (N,) (alike - opposite) / compared, in [-1, 1]

    @classmethod
    def of(cls, judgments):
        people, cells, rows = {}, {}, []
        for one, other in couples(judgments):
            alike, opposite, *_ties = compare(one.places, other.places)
            if not alike + opposite:
                continue
            first, second = (people.setdefault(row.annotator, len(people)) for row in (one, other))
            accord = (alike - opposite) / (alike + opposite)
            for here, there in ((first, second), (second, first)):
                rows.append((cells.setdefault((here, one.task), len(cells)), there, accord))
        cell, partner, accord = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(
            people=list(people),
            cells=list(cells),
            cell=np.array(cell, dtype=np.int64),
            partner=np.array(partner, dtype=np.int64),
            accord=np.array(accord, dtype=np.float64),
        )

    @classmethod
    def of_known(cls, judgments):
        """Those of people with known answers alone."""
        known = {judgment.task for judgment in judgments if judgment.annotator == GOLD}
        found = cls.of([judgment for judgment in judgments if judgment.task in known])
        if GOLD not in found.people:
            return cls.of([])
        is_gold = found.partner == found.people.index(GOLD)
        return cls(
            people=found.people,
            cells=found.cells,
            cell=found.cell[is_gold],
            partner=found.partner[is_gold],
            accord=found.accord[is_gold],
        )


def alignments(meetings, distrusted=()):
    """{annotator: Alignment}, by a factor model of agreement.

    The accord of k and j on a task has the mean r_k r_j: r_k is found by least squares given the others' r_j, which are
    found alike, until nothing moves. GOLD has r = 1. The distrusted, and whoever has less than half the median r, are
    no witnesses on others: a ring of people who agree with each other must not prop itself up. The error comes from
    the spread of single tasks, pooled over annotators: three tasks alone tell no spread.
    """
    count, n_cells = len(meetings.people), len(meetings.cells)
    if not n_cells:
        return {}
    owner = np.array([person for person, _task in meetings.cells])
    free = np.array([person != GOLD and person not in distrusted for person in meetings.people])
    trust = np.where(free, USUAL_ALIGNMENT, [float(person == GOLD) for person in meetings.people])
    for _step in range(30):
        by_cell = np.bincount(meetings.cell, trust[meetings.partner] * meetings.accord, n_cells)
        known = np.bincount(meetings.cell, trust[meetings.partner] ** 2, n_cells)
        information = np.bincount(owner, known, count)
        values = np.bincount(owner, by_cell, count) / np.maximum(information, 1e-9)
        heard = free & (information > 0)
        least = 0.5 * np.median(values[heard]) if heard.any() else 0.0
        before, trust = trust, np.where(heard, np.where(values < least, 0.0, np.clip(values, 0.05, 1.0)), trust)
        if np.abs(trust - before).max() < 1e-4:
            break
    told = known > 0.01  # tasks that somebody trusted has judged too
    tasks = np.bincount(owner[told], minlength=count)
    residuals = known[told] * (by_cell[told] / known[told] - values[owner[told]]) ** 2
    freedom = told.sum() - (tasks > 0).sum()
    variance = residuals.sum() / freedom if freedom > 0 else 0.5
    return {
        person: Alignment(
            value=float(values[number]), error=float(np.sqrt(variance / information[number])), tasks=int(tasks[number])
        )
        for number, person in enumerate(meetings.people)
        if person != GOLD and tasks[number]
    }


def alignment_readings(meetings, known_meetings, distrusted):
    """known_meetings: with known answers alone, for crowds too small to tell who is the odd one out."""
    found = enough(alignments(meetings, distrusted))
    trusted = [row for annotator, row in found.items() if annotator not in distrusted]
    if len(trusted) >= LEAST_PEOPLE:
        usual, spread = crowd([row.value for row in trusted], [row.error for row in trusted])
    else:
        found = enough(alignments(known_meetings))
        usual, spread = USUAL_ALIGNMENT, USUAL_SPREAD
    return [
        Reading(
            annotator=annotator,
            check="alignment",
            value=row.value,
            usual=usual,
            tasks=row.tasks,
            p=float(stats.norm.cdf((row.value - usual) / np.hypot(spread, row.error))),
            is_large=row.value < usual / 2,
        )
        for annotator, row in found.items()
    ]


def enough(found):
    return {annotator: row for annotator, row in found.items() if row.tasks >= LEAST_TASKS}


def crowd(values, errors_of):
    """(median, deviation among people): the deviation of the values less what the errors explain, robustly.

    From the upper half alone: hostile people stand below. The deviation is at least a tenth of the median: people
    differ, even where a few of them happen not to.
    """
    usual = float(np.median(values))
    seen = 1.4826 * float(np.median([value - usual for value in values if value >= usual]))
    spread = max(seen**2 - float(np.median(np.square(errors_of))), (0.1 * usual) ** 2, 1e-6)
    return usual, float(np.sqrt(spread))


# How well somebody agrees with themselves


def self_taus(repeats):
    """{annotator: [tau-b of an order with the same person's on the same answers, later]}"""
    found = defaultdict(list)
    for first, again in repeats:
        tau = tau_b(first.places, again.places)
        if tau is not None:
            found[first.annotator].append(tau)
    return found


def consistency_readings(taus, distrusted):
    means = means_of(taus, least=LEAST_REPEATS)
    trusted = [row for annotator, row in means.items() if annotator not in distrusted]
    if len(trusted) < LEAST_PEOPLE:
        return []
    usual, spread = crowd([mean for mean, *_rest in trusted], [error for _mean, error, _count in trusted])
    return [
        Reading(
            annotator=annotator,
            check="consistency",
            value=mean,
            usual=usual,
            tasks=count,
            p=float(stats.norm.cdf((mean - usual) / np.hypot(spread, error))),
            is_large=mean < usual / 2,
        )
        for annotator, (mean, error, count) in means.items()
    ]


def means_of(values, *, least):
    """{annotator: (mean, standard error, count)} of those with at least so many values; the deviation is pooled."""
    values = {annotator: found for annotator, found in values.items() if len(found) >= least}
    squares = sum((len(found) - 1) * np.var(found, ddof=1) for found in values.values())
    freedom = sum(len(found) - 1 for found in values.values())
    deviation = float(np.sqrt(squares / freedom)) if freedom else 0.5
    return {
        annotator: (float(np.mean(found)), max(deviation, 0.05) / float(np.sqrt(len(found))), len(found))
        for annotator, found in values.items()
    }


# Habits


def habit_readings(check, taus, distrusted):
    """How strongly orders follow the place on the page (distrusted None: usual is 0) or the length of the answers."""
    means = means_of(taus, least=LEAST_ORDERS)
    usual = 0.0
    if distrusted is not None:
        trusted = [mean for annotator, (mean, *_rest) in means.items() if annotator not in distrusted]
        if len(trusted) < LEAST_PEOPLE:
            return []
        usual = float(np.median(trusted))
    return [
        Reading(
            annotator=annotator,
            check=check,
            value=mean,
            usual=usual,
            tasks=count,
            p=float(stats.norm.sf((abs(mean - usual) - MOST_HABIT) / error)),
            is_large=abs(mean - usual) > MOST_HABIT,
        )
        for annotator, (mean, error, count) in means.items()
    ]


def pace_readings(judgments, distrusted):
    logs = defaultdict(list)
    for judgment in judgments:
        if judgment.seconds is not None:
            logs[judgment.annotator].append(float(np.log(max(judgment.seconds, 0.1))))
    means = means_of(logs, least=LEAST_ORDERS)
    trusted = [row for annotator, row in means.items() if annotator not in distrusted]
    if len(trusted) < LEAST_PEOPLE:
        return []
    usual = float(np.median([mean for mean, *_rest in trusted]))
    seen = float(stats.median_abs_deviation([mean for mean, *_rest in trusted], scale="normal"))
    spread = max(seen, 0.4)  # careful people's paces differ by a half and more
    return [
        Reading(
            annotator=annotator,
            check="pace",
            value=float(np.exp(mean)),
            usual=float(np.exp(usual)),
            tasks=count,
            p=float(stats.norm.cdf((mean - usual) / np.hypot(spread, error))),
            is_large=np.exp(mean - usual) < FASTEST,
        )
        for annotator, (mean, error, count) in means.items()
    ]


# Two people who look like one


def copying_readings(judgments):
    """Each annotator beside the one whose very orders they give most often; chance is what all pairs of people do."""
    same, shared = defaultdict(int), defaultdict(int)
    for one, other in couples(judgments):
        alike, opposite, tied_one, tied_other = compare(one.places, other.places)
        if alike + opposite < 3 or one.places.keys() != other.places.keys():
            continue  # so few answers are put in the same order by chance
        key = frozenset((one.annotator, other.annotator))
        shared[key] += 1
        same[key] += not (opposite or tied_one or tied_other)
    total = sum(shared.values())
    if not total:
        return []
    # Laplace's rule: with few pairs seen, none alike does not mean never alike.
    usual = (sum(same.values()) + 1) / (total + 2)
    partners = defaultdict(int)
    for key in shared:
        for annotator in key:
            partners[annotator] += 1
    worst = {}
    for key, count in shared.items():
        if count < LEAST_SHARED:
            continue
        p = float(stats.binom.sf(same[key] - 1, count, usual))
        for annotator in key:
            (partner,) = key - {annotator}
            reading = Reading(
                annotator=annotator,
                check="copying",
                value=same[key] / count,
                usual=usual,
                tasks=count,
                p=min(1.0, p * partners[annotator]),  # the worst of so many partners
                is_large=same[key] / count >= LEAST_SAME,
                partner=partner,
            )
            if annotator not in worst or reading.p < worst[annotator].p:
                worst[annotator] = reading
    return list(worst.values())
