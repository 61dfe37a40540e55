"""CSV for spreadsheets: one ranked or unranked answer a row. Text that a spreadsheet would run is made inert."""

import csv

from annotation.formats.native import format_time
from annotation.formats.selection import completions_by_id, pseudonym_of, read_pseudonyms, read_rankings
from annotation.messages import message_text

COLUMNS = (
    "ranking",
    "purpose",
    "source",
    "annotator",
    "prompt_digest",
    "prompt",
    "completion",
    "policy",
    "place",
    "overall",
    "flags",
    "rationale",
    "none_acceptable",
    "seconds",
    "created_at",
    "text",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


class Echo:
    """A file that hands each row back instead of keeping it."""

    def write(self, text):
        return text


def neutralise(text):
    """A leading apostrophe keeps a spreadsheet from taking a text for a formula."""
    return "'" + text if text.startswith(FORMULA_STARTS) else text


def write_rankings(project, selection):
    writer = csv.writer(Echo(), lineterminator="\r\n")
    pseudonyms = read_pseudonyms(project)
    yield writer.writerow(COLUMNS)
    for ranking in read_rankings(project, selection):
        pseudonym = pseudonym_of(project, pseudonyms, ranking.annotator_id)
        for row in ranking_rows(ranking, pseudonym):
            yield writer.writerow([neutralise(str(cell)) for cell in row])


def ranking_rows(ranking, pseudonym):
    places = {completion_id: place for place, group in enumerate(ranking.order, start=1) for completion_id in group}
    prompt = ranking.task.prompt
    for completion_id, completion in completions_by_id(ranking).items():
        yield (
            ranking.pk,
            ranking.task.purpose,
            ranking.source,
            pseudonym,
            prompt.digest,
            "\n\n".join(message_text(message) for message in prompt.messages),
            completion_id,
            completion.policy_digest,
            places.get(completion_id, ""),
            ranking.ratings.get(completion_id, {}).get("overall", ""),
            " ".join(ranking.flags.get(completion_id, ())),
            ranking.rationale,
            "yes" if ranking.none_acceptable else "no",
            "" if ranking.seconds is None else ranking.seconds,
            format_time(ranking.created_at),
            message_text(completion.message),
        )
