"""Who did what, and when."""

from annotation.models import AuditEvent


def record_event(project, *, actor, action, subject="", detail=None):
    """action: "noun.verb", such as "member.added"."""
    return AuditEvent.objects.create(
        project=project,
        actor=actor if actor is not None and actor.pk else None,
        action=action,
        subject=str(subject)[:200],
        detail=detail or {},
    )
