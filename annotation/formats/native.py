"""Rankings, native and lossless: one JSON object a line, schema plumbline.ranking/1 (docs/formats.md)."""

from datetime import UTC

from annotation.formats.selection import (
    completions_by_id,
    ordered,
    pseudonym_of,
    read_pseudonyms,
    read_rankings,
    to_line,
)

SCHEMA = "plumbline.ranking/1"


def write_rankings(project, selection):
    pseudonyms = read_pseudonyms(project)
    for ranking in read_rankings(project, selection):
        yield to_line(ranking_object(ranking, pseudonym_of(project, pseudonyms, ranking.annotator_id)))


def ranking_object(ranking, pseudonym, *, weight=1.0):
    """weight: of the annotator, times which the ranking's own stands in the file."""
    task, prompt = ranking.task, ranking.task.prompt
    return {
        "schema": SCHEMA,
        "id": str(ranking.pk),
        "version": ranking.version,
        "task": str(task.pk),
        "purpose": task.purpose,
        "pool": prompt.pool,
        "group": prompt.group,
        "source": ranking.source,
        "prompt_digest": prompt.digest,
        "prompt": ordered(prompt.messages),
        "completions": [
            {
                "id": completion_id,
                "messages": [ordered(completion.message)],
                "finish_reason": completion.finish_reason,
                "generator": ordered(completion.generator),
            }
            for completion_id, completion in completions_by_id(ranking).items()
        ],
        "ranking": ranking.order,
        "unranked": ranking.unranked,
        "none_acceptable": ranking.none_acceptable,
        "strength": ranking.strength,
        "weight": ranking.weight * weight,
        "ratings": ordered(ranking.ratings),
        "flags": ordered(ranking.flags),
        "rationale": ranking.rationale,
        "note": ranking.note,
        "annotator": pseudonym,
        "presented_order": ranking.presented_order,
        "seconds": ranking.seconds,
        "guideline_version": ranking.guideline_version,
        "prompt_set_version": ranking.prompt_set_version,
        "created_at": format_time(ranking.created_at),
    }


def format_time(moment):
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
