"""The test before real work: a person ranks tasks with a known answer, and goes on if they agree enough with these.

Every write to its table. The tasks are the project's gold tasks that this person has not met; a project without any
cannot test, and lets people in. Reviewers, admins and simulated annotators are not tested.
"""

from dataclasses import dataclass

from django.db import transaction
from django.utils import timezone

from annotation import hidden
from annotation.agreement import compare, count_comparisons, places_of
from annotation.audit import record_event
from annotation.models import (
    Assignment,
    AssignmentState,
    Guideline,
    Membership,
    Purpose,
    Qualification,
    Ranking,
    Role,
)
from annotation.projects import guideline_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where somebody who may not do real work yet stands in the test."""

    done: int
    wanted: int
    guideline_version: int
    agreement: float | None = None  # share of pairs in [0, 1] so far, None before the first
    failed: bool = False
    more: bool = True  # whether there is a test task to be handed out now

    @property
    def percent(self):
        return None if self.agreement is None else round(100 * self.agreement)


def standing(project, user):
    """Standing, or None for who may do real work."""
    if not project.qualification_tasks:
        return None
    member = Membership.objects.filter(project=project, user=user, active=True).first()
    if member is None or member.role != Role.ANNOTATOR or member.simulated:
        return None
    asked = Guideline.objects.filter(project=project, requalify=True).order_by("-version").first()
    version = asked.version if asked else 0
    tries = Qualification.objects.filter(project=project, user=user)
    last = tries.filter(guideline_version__gte=version, void_at=None).order_by("-created_at").first()
    if last is not None:
        return None if last.passed else failed_standing(last)
    voided = tries.exclude(void_at=None).order_by("-void_at").first()
    since = max(
        moment for moment in (member.created_at, asked and asked.created_at, voided and voided.void_at) if moment
    )
    return running_standing(project, user, version, since)


def failed_standing(last):
    return Standing(
        done=last.tasks,
        wanted=last.tasks,
        guideline_version=last.guideline_version,
        agreement=last.agreement,
        failed=True,
        more=False,
    )


def running_standing(project, user, version, since):
    rankings = Ranking.objects.filter(
        task__project=project,
        task__purpose=Purpose.GOLD,
        task__known_answer__isnull=False,
        annotator=user,
        is_current=True,
        withdrawn_at=None,
        created_at__gte=since,
    ).select_related("task__known_answer")
    pairs = [compare(places_of(ranking.task.known_answer.order), places_of(ranking.order))[:2] for ranking in rankings]
    pairs += [(0, count_comparisons(order)) for order in skipped_orders(project, user, since)]
    held = Assignment.objects.filter(
        annotator=user, task__project=project, task__purpose=Purpose.GOLD, state=AssignmentState.LEASED
    ).count()
    left = hidden.open_check(project, user) is not None
    if not pairs and not held and not left:
        return None  # nothing to test with
    wanted = project.qualification_tasks if left else min(project.qualification_tasks, len(pairs) + held)
    compared = sum(map(sum, pairs))
    return Standing(
        done=len(pairs),
        wanted=wanted,
        guideline_version=max(version, guideline_version(project)),
        agreement=sum(alike for alike, _opposite in pairs) / compared if compared else 0.0 if pairs else None,
        more=left and len(pairs) + held < wanted,
    )


def skipped_orders(project, user, since):
    """The known orders of test tasks that were skipped: what is not answered agrees with nothing."""
    skipped = Assignment.objects.filter(
        annotator=user,
        task__project=project,
        task__purpose=Purpose.GOLD,
        task__known_answer__isnull=False,
        state=AssignmentState.SKIPPED,
        ended_at__gte=since,
    )
    return skipped.values_list("task__known_answer__order", flat=True)


def settle(project, user):
    """standing(), after the result of a test that is done was written down."""
    found = standing(project, user)
    if found is None or found.failed or found.done < found.wanted:
        return found
    passed = 100 * found.agreement >= project.qualification_percent
    Qualification.objects.get_or_create(
        project=project,
        user=user,
        guideline_version=found.guideline_version,
        void_at=None,
        defaults={"tasks": found.done, "agreement": found.agreement, "passed": passed},
    )
    record_event(
        project,
        actor=user,
        action="qualification.passed" if passed else "qualification.failed",
        subject=user.get_username(),
        detail={"agreement": found.agreement, "tasks": found.done},
    )
    return standing(project, user)


@transaction.atomic
def let_try_again(qualification, *, actor):
    """Whether it stood until now. The next test asks about gold tasks that this person has not met."""
    voided = Qualification.objects.filter(pk=qualification.pk, void_at=None).update(void_at=timezone.now())
    if voided:
        record_event(
            qualification.project,
            actor=actor,
            action="qualification.voided",
            subject=qualification.user.get_username(),
        )
    return voided == 1
