"""Tasks with a known answer, to be read, and to practise on: explained once one has ranked them. Nothing is stored."""

from annotation import hidden
from annotation.agreement import compare, places_of
from annotation.models import Purpose
from annotation.rendering import render_markdown, render_message


def practice_tasks(project):
    """Tasks to practise on, oldest first."""
    return (
        hidden.with_known_answer(project, Purpose.PRACTICE)
        .select_related("prompt", "known_answer")
        .order_by("created_at", "pk")
    )


def known_answer_tasks(project):
    """Hidden checks and practice tasks that are asked, the newest first."""
    return (
        hidden.with_known_answer(project, *hidden.WITH_KNOWN_ANSWER)
        .select_related("prompt", "known_answer__created_by")
        .order_by("-known_answer__created_at", "pk")
    )


def shown(task):
    """{"conversation", "answers": [{"id", "number", "html", …}]} of a task, one answer a card, in the task's order."""
    cards = {}
    for entry in task.entries.select_related("completion").order_by("position"):
        cards.setdefault(entry.card, entry.completion)
    return {
        "conversation": [render_message(message) for message in task.prompt.messages],
        "answers": [
            {"id": str(completion.pk), "number": number, **render_message(completion.message)}
            for number, completion in enumerate(cards.values(), start=1)
        ],
    }


def known_order(task, answers):
    """The known tie groups by the numbers of the cards. answers: as of shown."""
    numbers = {answer["id"]: answer["number"] for answer in answers}
    groups = ([numbers[key] for key in group if key in numbers] for group in task.known_answer.order)
    return [group for group in groups if group]


def compared(task, order):
    """{"own", "known", "alike", "pairs", "explanation"}: an order beside the known one, by the numbers of the cards."""
    answers = shown(task)["answers"]
    numbers = {answer["id"]: answer["number"] for answer in answers}
    known, own = known_order(task, answers), [[numbers[key] for key in group] for group in order]
    alike, opposite, *_ties = compare(places_of(known), places_of(own))
    explanation = task.known_answer.explanation
    return {
        "own": own,
        "known": known,
        "alike": alike,
        "pairs": alike + opposite,
        "explanation": render_markdown(explanation) if explanation else None,
    }
