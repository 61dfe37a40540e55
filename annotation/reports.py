"""What a project's judgments say about their quality, computed in the background and kept: every write to the table.

Whoever is found suspicious is put under quarantine. The reconciler calls `refresh_due`; pages read what was kept.
"""

import time
from datetime import timedelta
from statistics import median

from django.utils import timezone

from annotation import adjudication, agreement, judgments, quarantine
from annotation.models import Membership, Project, QualityReport, Ranking

LEAST_AGE = timedelta(seconds=10)  # of a report, before judgments that came in since make it anew
DISPUTED = 0.5  # share of pairs ordered alike at which a task waits for a reviewer: no more than chance
MOST_DISPUTES = 500  # kept in a report
REST = 20  # times what computing took: at most a twentieth of the time goes into this


def refresh_due():
    """Makes the reports anew that are out of date, one project after another."""
    for project in Project.objects.filter(archived_at=None):
        for simulated in (False, True):
            if is_due(project, simulated=simulated):
                refresh(project, simulated=simulated)


def is_due(project, *, simulated):
    report = QualityReport.objects.filter(project=project, simulated=simulated).first()
    if report is None:
        return judgments.of_source(Ranking.objects.filter(task__project=project), simulated=simulated).exists()
    age = timezone.now() - report.computed_at
    if age < max(LEAST_AGE, REST * timedelta(seconds=report.seconds)):
        return False
    return report.fingerprint != judgments.fingerprint(project, simulated=simulated)


def refresh(project, *, simulated=False):
    """The report, made anew and stored; suspects are put under quarantine."""
    began = time.monotonic()
    # Before reading: what comes in meanwhile makes the report out of date.
    fingerprint = judgments.fingerprint(project, simulated=simulated)
    figures = compute(project, simulated=simulated)
    report, _created = QualityReport.objects.update_or_create(
        project=project,
        simulated=simulated,
        defaults={
            "fingerprint": fingerprint,
            "figures": figures,
            "seconds": time.monotonic() - began,
            "computed_at": timezone.now(),
        },
    )
    for member in Membership.objects.filter(project=project, user__in=figures["suspects"].keys()):
        quarantine.suspect(member, reasons=figures["suspects"][str(member.user_id)])
    return report


def compute(project, *, simulated):
    """{"agreement": agreement.pairwise_agreement, "annotators": {user id: figures of one}, "disputes", "suspects",
    "weights"}.

    suspects: {user id: [{"check", "value", "usual", "tasks", "partner"}]}; weights: {user id: 0 to 1}. User ids are
    text, as JSON wants them; judgments of deleted accounts count in "agreement" alone.
    """
    # Here and not above: SciPy takes a second and some 90 MB, which the web's processes must not spend.
    from annotation import reliability, suspicion

    rows = list(judgments.read_judgments(project, simulated=simulated, lengths=judgments.read_lengths(project)))
    known = list(judgments.read_known(project, annotator=suspicion.GOLD))
    repeats = list(judgments.read_repeats(project, rows, simulated=simulated))
    since = judgments.cleared_at(project)
    named = [row for row in rows if row.annotator is not None]
    evidence = [row for row in named if row.at >= since.get(row.annotator, 0)]
    again = [(first, second) for first, second in repeats if first.at >= since.get(first.annotator, 0)]
    suspects = suspicion.find_suspects([*evidence, *known], repeats=again)
    may_be_settled = set(adjudication.trainable_tasks(project).values_list("pk", flat=True))
    fits = reliability.fit_reliabilities([*named, *known], distrusted=suspects)
    weights = reliability.weights(fits)
    return {
        "agreement": agreement.pairwise_agreement(rows),
        "annotators": {str(key): value for key, value in annotator_figures(named, known, repeats, weights).items()},
        "disputes": disputed(
            [row for row in named if row.task in may_be_settled], settled={row.task for row in known}
        ),
        "suspects": {str(key): [reason(reading) for reading in readings] for key, readings in suspects.items()},
        "weights": {str(key): value for key, value in weights.items()},
    }


def disputed(rows, *, settled):
    """[[task id, agreement, judgments]] of tasks whose judges agree no more than chance, the most disputed first."""
    found = []
    for task, judged in agreement.by_task(rows).items():
        share = agreement.task_agreement(judged) if task not in settled else None
        if share is not None and share <= DISPUTED:
            found.append([str(task), share, len(judged)])
    return sorted(found, key=lambda row: (row[1], row[0]))[:MOST_DISPUTES]


def reason(reading):
    return {
        "check": reading.check,
        "value": reading.value,
        "usual": reading.usual,
        "tasks": reading.tasks,
        "partner": reading.partner,
    }


def annotator_figures(rows, known, repeats, weights):
    """{user id: {"rankings", "agreement", "known", "consistency", "position", "length", "pace", "drift", "weight"}}.

    Shares and means are [value, low, high, how many], or None; pace is in seconds; drift is [change, low, high].
    """
    with_others = agreement.shares_with_others(rows)
    with_known = shares_with_known(rows, known)
    with_self = {}
    for first, second in repeats:
        alike, opposite, *_ties = agreement.compare(first.places, second.places)
        with_self.setdefault(first.annotator, []).append((alike, alike + opposite))
    position, length = agreement.position_taus(rows), agreement.length_taus(rows)
    by_annotator = {}
    for row in rows:
        by_annotator.setdefault(row.annotator, []).append(row)
    found = {}
    for annotator, own in by_annotator.items():
        seconds = [row.seconds for row in own if row.seconds is not None]
        found[annotator] = {
            "rankings": len(own),
            "agreement": share_of(with_others.get(annotator, [])),
            "known": share_of(with_known.get(annotator, [])),
            "consistency": share_of(with_self.get(annotator, [])),
            "position": mean_of(position.get(annotator, [])),
            "length": mean_of(length.get(annotator, [])),
            "pace": median(seconds) if seconds else None,
            "drift": agreement.drift(with_others.get(annotator, [])),
            "weight": weights.get(annotator),
        }
    return found


def shares_with_known(rows, known):
    """{annotator: [(alike, compared) a task]} beside known answers."""
    answers = {row.task: row.places for row in known}
    found = {}
    for row in rows:
        if row.task in answers:
            alike, opposite, *_ties = agreement.compare(row.places, answers[row.task])
            found.setdefault(row.annotator, []).append((alike, alike + opposite))
    return found


def share_of(clusters):
    """[share, low, high, pairs], or None."""
    share, low, high = agreement.clustered_share(clusters)
    return None if share is None else [share, low, high, sum(trials for _successes, trials in clusters)]


def mean_of(values):
    """[mean, low, high, values], or None."""
    mean, low, high = agreement.clustered_mean([[value] for value in values])
    return None if mean is None else [mean, low, high, len(values)]


def training_weights(project):
    """{user id: weight} for a snapshot, of those whose reliability is known; {} where the project does not weigh."""
    if not project.weigh_annotators:
        return {}
    found = {}
    for simulated in (False, True):
        stored = QualityReport.objects.filter(project=project, simulated=simulated).first()
        if stored is None or stored.fingerprint != judgments.fingerprint(project, simulated=simulated):
            if not judgments.in_use(project, simulated=simulated).exists():
                continue
            stored = refresh(project, simulated=simulated)
        found |= {int(user_id): weight for user_id, weight in stored.figures["weights"].items()}
    return found
