"""TRL preference data: one comparison a line, in chat form or as plain text. Only what may train."""

from annotation.agreement import comparisons
from annotation.formats.selection import (
    completions_by_id,
    ordered,
    read_rankings,
    to_line,
)
from annotation.messages import message_text
from annotation.models import TRAINING_PURPOSES


def read_comparisons(project, selection):
    """(ranking, chosen Completion, rejected Completion) of each comparison."""
    for ranking in read_rankings(project, selection, purposes=TRAINING_PURPOSES):
        by_id = completions_by_id(ranking)
        for chosen, rejected in comparisons(ranking.order):
            yield ranking, by_id[chosen], by_id[rejected]


def write_preferences(project, selection):
    for ranking, chosen, rejected in read_comparisons(project, selection):
        yield to_line(
            {
                "prompt": ordered(ranking.task.prompt.messages),
                "chosen": [ordered(chosen.message)],
                "rejected": [ordered(rejected.message)],
            }
        )


def write_plain_preferences(project, selection):
    """Only prompts of one message have a plain form; longer conversations are left to the chat form."""
    for ranking, chosen, rejected in read_comparisons(project, selection):
        conversation = ranking.task.prompt.messages
        if len(conversation) == 1:
            yield to_line(
                {
                    "prompt": message_text(conversation[0]),
                    "chosen": message_text(chosen.message),
                    "rejected": message_text(rejected.message),
                }
            )
