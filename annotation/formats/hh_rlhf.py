"""Anthropic's HH-RLHF: {"chosen", "rejected"}, each the whole dialogue as one text (arXiv:2204.05862)."""

from annotation.formats.selection import to_line
from annotation.formats.trl import read_comparisons
from annotation.messages import message_text

SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def write_pairs(project, selection):
    for ranking, chosen, rejected in read_comparisons(project, selection):
        start = dialogue(ranking.task.prompt.messages)
        yield to_line(
            {
                "chosen": start + turn("Assistant", chosen.message),
                "rejected": start + turn("Assistant", rejected.message),
            }
        )


def dialogue(messages):
    """The format has no system turn: that text stands before the first one."""
    return "".join(
        turn(SPEAKERS[message["role"]], message) if message["role"] in SPEAKERS else message_text(message)
        for message in messages
    )


def turn(speaker, message):
    return f"\n\n{speaker}: {message_text(message)}"
