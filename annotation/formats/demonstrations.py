"""Demonstrations: {"id", "messages", "weight", "pool", "group", "source"}; `messages` is what TRL's SFT reads."""

from django.db.models import Exists, OuterRef

from annotation.formats.selection import CHUNK, filter_simulated, ordered, to_line
from annotation.models import Demonstration, Membership, Pool


def write_demonstrations(project, selection):
    """Without those to prompts of the eval pool (a prompt that measures must not train) and those held back."""
    # Under quarantine, what somebody writes waits for a reviewer as what they rank does.
    held = Membership.objects.filter(
        project=project, user=OuterRef("author"), quarantined_at__lte=OuterRef("created_at")
    )
    rows = (
        Demonstration.objects.filter(~Exists(held), project=project, withdrawn_at=None)
        .exclude(prompt__pool=Pool.EVAL)
        .select_related("prompt")
        .order_by("created_at", "pk")
    )
    for row in filter_simulated(rows, selection.simulated).iterator(chunk_size=CHUNK):
        yield to_line(
            {
                "id": str(row.pk),
                "messages": ordered([*row.prompt.messages, row.message]),
                "weight": 1.0,
                "pool": row.prompt.pool,
                "group": row.prompt.group,
                "source": row.source,
            }
        )
