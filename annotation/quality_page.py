"""What the page on quality says, in plain words: reads only."""

from dataclasses import dataclass

from django.utils import timezone
from django.utils.formats import number_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from annotation import adjudication, hidden, quality
from annotation.agreement import INSTRUCTGPT_AGREEMENT
from annotation.models import Membership, Purpose, QualityReport, Ranking, Suspicion, SuspicionState

ENOUGH_TASKS = 8  # from which a person's agreement is shown with its change over time


def percent(share):
    return f"{100 * share:.0f}%"


def bounds(low, high):
    return f"{100 * low:.0f}–{percent(high)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One figure of an annotator in the table."""

    key: str  # in reports.annotator_figures
    name: str
    meaning: str


SHARES = (
    Column(
        key="agreement",
        name=gettext_lazy("As others"),
        meaning=gettext_lazy("Of 100 pairs of answers, how many stand in the order that others gave them."),
    ),
    Column(
        key="known",
        name=gettext_lazy("Checks"),
        meaning=gettext_lazy("Of 100 pairs in hidden checks, how many stand as their known answers say."),
    ),
    Column(
        key="consistency",
        name=gettext_lazy("As before"),
        meaning=gettext_lazy("Of 100 pairs asked again, how many the same person ordered as the first time."),
    ),
)
HABITS = (
    Column(
        key="position",
        name=gettext_lazy("Early"),
        meaning=gettext_lazy("From −1 to 1. Above 0, answers shown early are preferred; near 0 is usual."),
    ),
    Column(
        key="length",
        name=gettext_lazy("Long"),
        meaning=gettext_lazy("From −1 to 1. Above 0, longer answers are preferred; compare it with the others’."),
    ),
)
PACE = Column(
    key="pace",
    name=gettext_lazy("Seconds"),
    meaning=gettext_lazy("What a ranking usually takes: half of theirs took longer."),
)
WEIGHT = Column(
    key="weight",
    name=gettext_lazy("Weight"),
    meaning=gettext_lazy("What a ranking counts in training: 1 is usual, less for whoever often differs."),
)
COLUMNS = (*SHARES, *HABITS, PACE, WEIGHT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    column: Column
    text: str
    range: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One annotator in the table: figures as reports.annotator_figures, or None."""

    membership: Membership
    figures: dict
    suspicion: Suspicion | None
    weighs: bool  # whether the project weighs its annotators

    @property
    def cells(self):
        """A Cell for each of COLUMNS; a dash where there is no figure yet."""
        cells = []
        for column in SHARES:
            value = self.figures.get(column.key)
            shown = {"text": percent(value[0]), "range": bounds(*value[1:3])} if value else {"text": "–"}
            cells.append(Cell(column=column, **shown))
        for column in HABITS:
            value = self.figures.get(column.key)
            cells.append(Cell(column=column, text=number_format(value[0], 2) if value else "–"))
        pace = self.figures.get(PACE.key)
        cells.append(Cell(column=PACE, text="–" if pace is None else number_format(pace, 0)))
        weight = self.figures.get(WEIGHT.key)
        text = "1" if weight is None else number_format(weight, 2)
        cells.append(Cell(column=WEIGHT, text=text if self.weighs else _("off")))
        return cells

    @property
    def drift(self):
        """A sentence where agreement has certainly changed, else empty."""
        drift = self.figures.get("drift")
        if not drift or drift[1] <= 0 <= drift[2]:
            return ""
        if drift[0] < 0:
            return _("%(n)d points lower lately") % {"n": round(-100 * drift[0])}
        return _("%(n)d points higher lately") % {"n": round(100 * drift[0])}


def read_page(project, *, simulated):
    """The variables of quality.html: report, sentence, rows, suspicions, settled and further counts."""
    report = QualityReport.objects.filter(project=project, simulated=simulated).first()
    figures = report.figures if report else {}
    members = project.memberships.filter(simulated=simulated).select_related("user")
    open_suspicions = {
        row.membership_id: row
        for row in Suspicion.objects.filter(membership__in=members, state=SuspicionState.OPEN).select_related(
            "membership__user"
        )
    }
    names = dict(project.memberships.values_list("user_id", "user__username"))
    rows = [
        Row(
            membership=member,
            figures=figures.get("annotators", {}).get(str(member.user_id), {}),
            suspicion=open_suspicions.get(member.pk),
            weighs=project.weigh_annotators,
        )
        for member in members
    ]
    agreement = figures.get("agreement") or quality.pairwise_agreement(project, simulated=simulated)
    disputes = adjudication.disputes(project)
    suspicions = [describe(suspicion, names) for suspicion in open_suspicions.values()]
    return {
        "report": report,
        "agreement": agreement,
        "orientation": INSTRUCTGPT_AGREEMENT,
        "rows": [row for row in rows if row.figures or row.suspicion or row.membership.quarantined_at],
        "suspicions": suspicions,
        "disputes": disputes,
        "checks": hidden.with_known_answer(project, Purpose.GOLD).count(),
        "withdrawals": project.withdrawals.select_related("annotator", "created_by")[:20],
        "people": members,
        "columns": COLUMNS,
        "sentence": sentence(agreement, suspicions, disputes, simulated=simulated),
        "now": timezone.now(),
    }


def sentence(agreement, suspicions, disputes, *, simulated):
    """Where quality stands, and what waits for a reviewer."""
    parts = []
    if agreement["agreement"] is None:
        parts.append(
            _("No two simulated annotators have ranked the same task yet.")
            if simulated
            else _("No two people have ranked the same task yet.")
        )
    else:
        words = (
            _("Simulated annotators order %(share)s of pairs alike (%(bounds)s).")
            if simulated
            else _("People order %(share)s of pairs alike (%(bounds)s).")
        )
        parts.append(
            words % {"share": percent(agreement["agreement"]), "bounds": bounds(agreement["low"], agreement["high"])}
        )
    if suspicions:
        parts.append(
            ngettext("%(n)d person waits for your decision.", "%(n)d people wait for your decision.", len(suspicions))
            % {"n": len(suspicions)}
        )
    if disputes:
        parts.append(
            ngettext("%(n)d task is disputed.", "%(n)d tasks are disputed.", len(disputes)) % {"n": len(disputes)}
        )
    if not suspicions and not disputes and agreement["agreement"] is not None:
        parts.append(_("Nothing waits for you."))
    return " ".join(parts)


def describe(suspicion, names):
    """{"suspicion", "reasons": sentences, "held": rankings kept back}"""
    member = suspicion.membership
    held = Ranking.objects.filter(
        task__project=member.project_id, annotator=member.user_id, is_held=True, is_current=True, withdrawn_at=None
    )
    reasons = [explain(reason, names) for reason in suspicion.reasons]
    return {
        "suspicion": suspicion,
        "reasons": [*reasons, suspicion.note] if suspicion.note else reasons,
        "held": held.count(),
    }


def explain(reason, names):
    """One reason (models.Suspicion) as a sentence for people who know no statistics."""
    values = {
        "tasks": reason["tasks"],
        "value": round(100 * reason["value"]),
        "usual": round(100 * reason["usual"]),
        "partner": names.get(reason.get("partner"), _("somebody else")),
    }
    if reason["check"] == "alignment":
        if reason["value"] < -0.2:
            return _("Puts answers in the opposite order of everybody else, on %(tasks)d tasks.") % values
        if reason["value"] < 0.1:
            return _("Agrees with others no more than chance would, on %(tasks)d tasks.") % values
        return (
            _(
                "Agrees with others far less than usual, on %(tasks)d tasks: %(value)d where %(usual)d is usual and 0 "
                "is chance."
            )
            % values
        )
    if reason["check"] == "consistency":
        return (
            _("Ranks the same answers differently the second time: %(value)d where %(usual)d is usual, 0 chance.")
            % values
        )
    if reason["check"] == "position":
        if reason["value"] > 0:
            return _("Prefers whatever is shown first, on %(tasks)d tasks.") % values
        return _("Prefers whatever is shown last, on %(tasks)d tasks.") % values
    if reason["check"] == "length":
        if reason["value"] > reason["usual"]:
            return _("Puts longer answers first far more than others do, on %(tasks)d tasks.") % values
        return _("Puts shorter answers first far more than others do, on %(tasks)d tasks.") % values
    if reason["check"] == "pace":
        seconds = {"value": f"{reason['value']:.0f}", "usual": f"{reason['usual']:.0f}"}
        return _("Takes %(value)s seconds a task where others take %(usual)s.") % seconds
    return (
        _("Gives the very same order as %(partner)s on %(value)d%% of %(tasks)d tasks; usual is %(usual)d%%.") % values
    )
