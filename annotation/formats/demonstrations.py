"""Demonstrations: {"id", "messages", "weight", "pool", "group", "source"}; `messages` is what TRL's SFT reads."""

from annotation.formats.selection import CHUNK, filter_simulated, ordered, to_line
from annotation.models import Demonstration, Pool


def write_demonstrations(project, selection):
    """Without those to prompts of the eval pool: a prompt that measures must not train."""
    rows = (
        Demonstration.objects.filter(project=project, withdrawn_at=None)
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
