"""Rankings: every write to their table. Versions are only ever added."""

import math
import uuid

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from annotation import hidden, messages
from annotation.assignment import Conflict, NotYours, end_lease, lock_own
from annotation.models import AssignmentState, Membership, Ranking, Slot, SlotState, Source, TaskCompletion
from annotation.projects import guideline_version as newest_guideline
from annotation.ranking_form import form_of

__all__ = ["Conflict", "NotYours", "RankingError", "submit_ranking"]

MAX_WRITTEN = 20_000  # characters of a rationale or a note
MAX_SECONDS = 7 * 24 * 3600
MAX_STRENGTH = 5  # how clearly the first is better: 1 slightly … 5 by far


class RankingError(ValueError):
    """A ranking that cannot be stored. `field` is the name in the API's body."""

    def __init__(self, field, message):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def submit_ranking(
    assignment,
    *,
    annotator,
    client_id,
    order,
    none_acceptable=False,
    ratings=None,
    flags=None,
    rationale="",
    note="",
    strength=None,
    seconds=None,
    guideline_version=None,
    source=None,
):
    """(Ranking, created). The same client_id with the same body gives the first answer again, one row.

    order: tie groups of completion ids, best first; what is left out is unranked. A second submit with a new client_id
    is an edit, a new version, whose seconds are added to those spent before. Once somebody else has the slot the
    ranking is kept as surplus and not counted.
    guideline_version: the one that was followed, if not the newest. note: written before the answers were shown.
    source: only for judgments that come from elsewhere; a simulated member's are always marked as such.
    Raises RankingError, Conflict, NotYours.
    """
    check_client_id(client_id)
    body = {
        "assignment": str(assignment.pk),
        "order": order,
        "none_acceptable": none_acceptable,
        "ratings": ratings or {},
        "flags": flags or {},
        "rationale": rationale,
        "strength": strength,
        "seconds": seconds,
    }
    # Only where given: a body sent before these keys existed keeps its digest.
    body |= {"note": note} if note else {}
    body |= {"guideline_version": guideline_version} if guideline_version is not None else {}
    body_sha256 = digest_body(body)
    try:
        with transaction.atomic():
            assignment = lock_own(assignment, annotator)
            first = find_repeated(annotator, client_id, body_sha256)
            if first is not None:
                return first, False
            judgment = check_judgment(assignment, body)
            return add_version(assignment, annotator, client_id, body_sha256, judgment, source), True
    except IntegrityError:
        # The same client_id arrived for two assignments at once, and the other one won.
        first = find_repeated(annotator, client_id, body_sha256)
        if first is None:
            raise
        return first, False


def check_client_id(client_id):
    if not isinstance(client_id, str) or not 1 <= len(client_id) <= 64 or not client_id.isprintable():
        raise RankingError("client_id", _("must be a text of 1 to 64 characters, new for every judgment."))


def digest_body(body):
    try:
        return messages.sha256_of_json(body)
    except (ValueError, TypeError, RecursionError):
        raise RankingError("", _("The ranking must be plain JSON in valid Unicode.")) from None


def find_repeated(annotator, client_id, body_sha256):
    first = Ranking.objects.filter(annotator=annotator, client_id=client_id).first()
    if first is not None and first.body_sha256 != body_sha256:
        raise Conflict(_("This client_id was already used for another ranking. Use a new one for a change."))
    return first


def check_judgment(assignment, body):
    """The columns of Ranking that hold the judgment, identical completions mapped back. Raises RankingError."""
    entries = list(
        TaskCompletion.objects.filter(task=assignment.task_id).order_by("position").values_list("completion_id", "card")
    )
    cards = {str(completion_id): card for completion_id, card in entries}
    members = {}  # card -> ids
    for completion_id, card in cards.items():
        members.setdefault(card, []).append(completion_id)
    form = form_of(assignment.task.project)
    if not isinstance(body["none_acceptable"], bool):
        raise RankingError("none_acceptable", _("must be true or false."))
    groups = check_order(body["order"], cards)
    ranked = {card for group in groups for card in group}
    if len(ranked) < 2 and not body["none_acceptable"]:
        raise RankingError("ranking", _("Rank at least two answers, or say that none is acceptable."))
    return {
        "order": [[member for card in group for member in members[card]] for group in groups],
        "unranked": [completion_id for completion_id, card in cards.items() if card not in ranked],
        "none_acceptable": body["none_acceptable"],
        "ratings": spread(check_ratings(body["ratings"], cards, form), cards, members),
        "flags": spread(check_flags(body["flags"], cards, form), cards, members),
        "rationale": check_written(body["rationale"], field="rationale"),
        "note": check_written(body.get("note", ""), field="note"),
        "strength": check_strength(body["strength"]),
        "seconds": check_seconds(body["seconds"]),
        "guideline_version": check_guideline_version(body.get("guideline_version"), assignment.task.project),
    }


def check_order(order, cards):
    """Tie groups of cards. Identical completions are one card and may stand only in one group."""
    if not isinstance(order, list) or len(order) > len(cards):
        raise RankingError("ranking", _("must be a list of tie groups, such as [[best], [second, third]]."))
    seen = set()
    place = {}  # card -> index of its tie group
    for index, group in enumerate(order):
        if not isinstance(group, list) or not 1 <= len(group) <= len(cards):
            raise RankingError("ranking", _("Tie group %(n)d must be a list of answer ids.") % {"n": index + 1})
        for value in group:
            completion_id = known_id(value, cards, "ranking")
            if completion_id in seen:
                raise RankingError("ranking", _("The answer %(id)s stands in it twice.") % {"id": completion_id})
            seen.add(completion_id)
            if place.setdefault(cards[completion_id], index) != index:
                raise RankingError("ranking", _("Two identical answers stand in different places."))
    return [[card for card, at in place.items() if at == index] for index in range(len(order))]


def known_id(value, cards, field):
    completion_id = value.lower() if isinstance(value, str) else str(value) if isinstance(value, uuid.UUID) else None
    if completion_id not in cards:
        raise RankingError(field, _("%(id)s is not an answer of this task.") % {"id": repr(value)[:60]})
    return completion_id


def spread(by_id, cards, members):
    """What was said of a card, said of each of its identical completions."""
    return {member: value for completion_id, value in by_id.items() for member in members[cards[completion_id]]}


def check_ratings(ratings, cards, form):
    if not isinstance(ratings, dict):
        raise RankingError("ratings", _('must look like {"ID": {"overall": 5}}.'))
    axes = {"overall", *(axis["key"] for axis in form["axes"])}
    checked = {}
    for key, values in ratings.items():
        completion_id = known_id(key, cards, "ratings")
        if not isinstance(values, dict):
            raise RankingError("ratings", _('must look like {"ID": {"overall": 5}}.'))
        for axis, value in values.items():
            if axis not in axes:
                raise RankingError("ratings", _("%(axis)s is not asked in this project.") % {"axis": repr(axis)[:60]})
            if type(value) is not int or not 1 <= value <= 7:
                raise RankingError("ratings", _("%(axis)s must be a whole number from 1 to 7.") % {"axis": axis})
        if values:
            checked[completion_id] = values
    return checked


def check_flags(flags, cards, form):
    if not isinstance(flags, dict):
        raise RankingError("flags", _('must look like {"ID": ["hallucination"]}.'))
    known = [flag["key"] for flag in form["flags"]]
    checked = {}
    for key, values in flags.items():
        completion_id = known_id(key, cards, "flags")
        if not isinstance(values, list):
            raise RankingError("flags", _('must look like {"ID": ["hallucination"]}.'))
        for value in values:
            if not isinstance(value, str) or value not in known:
                raise RankingError("flags", _("%(flag)s is not a flag of this project.") % {"flag": repr(value)[:60]})
        if values:
            checked[completion_id] = [flag for flag in known if flag in values]
    return checked


def check_written(text, *, field):
    try:
        messages.check_text(text, field=field, max_length=MAX_WRITTEN)
    except messages.MessageError as error:
        raise RankingError(error.field, error.message) from None
    return text


def check_strength(strength):
    if strength is not None and (type(strength) is not int or not 1 <= strength <= MAX_STRENGTH):
        raise RankingError("strength", _("must be a whole number from 1 to %(high)d.") % {"high": MAX_STRENGTH})
    return strength


def check_seconds(seconds):
    if seconds is None:
        return None
    number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not number or not math.isfinite(seconds) or not 0 <= seconds <= MAX_SECONDS:
        raise RankingError("seconds", _("must be a number from 0 to %(high)d.") % {"high": MAX_SECONDS})
    return float(seconds)


def check_guideline_version(version, project):
    """The version that was followed, 0 for none; the newest where the client does not say."""
    newest = newest_guideline(project)
    if version is None:
        return newest
    if type(version) is not int or not 0 <= version <= newest:
        raise RankingError("guideline_version", _("must be a version of this project's guidelines."))
    return version


def add_version(assignment, annotator, client_id, body_sha256, judgment, source):
    task = assignment.task
    before = None
    if assignment.state in (AssignmentState.SUBMITTED, AssignmentState.SURPLUS):
        before = Ranking.objects.filter(assignment=assignment, is_current=True).first()
    if before is None:
        is_counted = hand_in(assignment)
    else:
        is_counted = before.is_counted
        Ranking.objects.filter(pk=before.pk).update(is_current=False)
        judgment = {**judgment, "seconds": added_seconds(before.seconds, judgment["seconds"])}
    is_simulated, is_quarantined = standing_of(task.project, annotator)
    return Ranking.objects.create(
        task=task,
        assignment=assignment,
        annotator=annotator,
        source=Source.SIMULATED if is_simulated else source or Source.ANNOTATOR,
        client_id=client_id,
        body_sha256=body_sha256,
        version=before.version + 1 if before else 1,
        is_counted=is_counted,
        # A change is held back like what it changes, or because of what was found out since.
        is_held=is_quarantined or (before is not None and before.is_held),
        presented_order=assignment.presented_order,
        prompt_set_version=task.prompt.prompt_set.version,
        # A change does not bring back what was withdrawn.
        withdrawn_at=before.withdrawn_at if before else None,
        withdrawal=before.withdrawal if before else None,
        **judgment,
    )


def added_seconds(before, more):
    """The time on the task, edits included; None where nobody ever said."""
    return None if before is None and more is None else (before or 0.0) + (more or 0.0)


def standing_of(project, annotator):
    """(whether this person's judgments are simulated, whether new ones are held back until a reviewer decides)."""
    found = (
        Membership.objects.filter(project=project, user=annotator).values_list("simulated", "quarantined_at").first()
    )
    simulated, quarantined_at = found or (False, None)
    return simulated, quarantined_at is not None


def hand_in(assignment):
    """Whether the judgment counts: while the lease is held, or nobody took the slot since it ended; else surplus."""
    vacant = hidden.vacant_state(assignment.task)
    held = {AssignmentState.LEASED: SlotState.LEASED, AssignmentState.EXPIRED: vacant}.get(assignment.state)
    if held and Slot.objects.filter(pk=assignment.slot_id, state=held).update(state=SlotState.DONE) == 1:
        end_lease(assignment, AssignmentState.SUBMITTED)
        return True
    end_lease(assignment, AssignmentState.SURPLUS)
    return False
