"""Members under suspicion, whose new rankings are not used until a reviewer decides: every write to the table."""

from django.db import transaction
from django.utils import timezone

from annotation import withdrawals
from annotation.audit import record_event
from annotation.models import Demonstration, Membership, Ranking, Suspicion, SuspicionState


@transaction.atomic
def suspect(membership, *, reasons=(), note="", actor=None):
    """The open Suspicion, new or with these reasons; from now on the member's rankings are held back.

    reasons: dicts, as models.Suspicion; actor: the reviewer who suspects, None for the rule (suspicion.py).
    """
    membership = (
        Membership.objects.select_for_update(no_key=True).select_related("project", "user").get(pk=membership.pk)
    )
    found = Suspicion.objects.filter(membership=membership, state=SuspicionState.OPEN).first()
    if found:
        if reasons and list(reasons) != found.reasons:
            Suspicion.objects.filter(pk=found.pk).update(reasons=list(reasons))
        return found
    found = Suspicion.objects.create(membership=membership, reasons=list(reasons), note=note[:500])
    Membership.objects.filter(pk=membership.pk, quarantined_at=None).update(quarantined_at=timezone.now())
    record_event(
        membership.project,
        actor=actor,
        action="member.quarantined",
        subject=membership.user.get_username(),
        detail={"reasons": list(reasons), "note": note},
    )
    return found


@transaction.atomic
def clear(suspicion, *, actor):
    """How many rankings that were held back are used now, or None where it was decided before."""
    if not decide(suspicion, SuspicionState.CLEARED, actor):
        return None
    membership = suspicion.membership
    Membership.objects.filter(pk=membership.pk).update(quarantined_at=None)
    released = Ranking.objects.filter(
        task__project=membership.project_id, annotator=membership.user_id, is_held=True
    ).update(is_held=False)
    record(suspicion, actor, "member.cleared", {"released": released})
    return released


@transaction.atomic
def confirm(suspicion, *, actor, reason=""):
    """The Withdrawal of all this member's judgments (None: there were none). They stay under quarantine."""
    if not decide(suspicion, SuspicionState.CONFIRMED, actor):
        return None
    membership = suspicion.membership
    withdrawal = withdrawals.withdraw(membership.project, annotator=membership.user, actor=actor, reason=reason)
    record(suspicion, actor, "member.confirmed", {"withdrawn": withdrawal.count if withdrawal else 0})
    return withdrawal


def decide(suspicion, state, actor):
    open_one = Suspicion.objects.filter(pk=suspicion.pk, state=SuspicionState.OPEN)
    return open_one.update(state=state, decided_by=actor, decided_at=timezone.now()) == 1


def record(suspicion, actor, action, detail):
    record_event(
        suspicion.membership.project,
        actor=actor,
        action=action,
        subject=suspicion.membership.user.get_username(),
        detail={"suspicion": str(suspicion.pk), **detail},
    )


@transaction.atomic
def lift(membership, *, actor):
    """Whether a confirmed member was in quarantine until now; what was held back or withdrawn meanwhile stays so."""
    membership.refresh_from_db()
    if Suspicion.objects.filter(membership=membership, state=SuspicionState.OPEN).exists():
        return False
    lifted = Membership.objects.filter(pk=membership.pk, quarantined_at__isnull=False).update(quarantined_at=None)
    if lifted:
        # Rankings carry that they were held back; of demonstrations only the quarantine itself said so.
        Demonstration.objects.filter(
            project=membership.project_id,
            author=membership.user_id,
            withdrawn_at=None,
            created_at__gte=membership.quarantined_at,
        ).update(withdrawn_at=timezone.now())
        record_event(
            membership.project, actor=actor, action="member.lifted", subject=membership.user.get_username(), detail={}
        )
    return lifted == 1
