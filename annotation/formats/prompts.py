"""Prompts: {"digest", "messages", "pool", "group"}, each conversation once, in the order of import."""

from annotation.formats.selection import CHUNK, ordered, to_line
from annotation.models import Prompt


def write_prompts(project, selection=None):
    seen = set()
    prompts = Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True)
    rows = prompts.order_by("prompt_set__created_at", "prompt_set_id", "position")
    for prompt in rows.only("digest", "messages", "pool", "group").iterator(chunk_size=CHUNK):
        key = bytes.fromhex(prompt.digest)
        if key not in seen:
            seen.add(key)
            yield to_line(
                {
                    "digest": prompt.digest,
                    "messages": ordered(prompt.messages),
                    "pool": prompt.pool,
                    "group": prompt.group,
                }
            )
