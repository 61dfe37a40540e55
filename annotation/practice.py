"""The practice set: tasks whose known answer is explained once one has ranked them. Reads only; nothing is stored."""

from annotation.agreement import compare, places_of
from annotation.models import Purpose, Task
from annotation.rendering import render_markdown, render_message


def practice_tasks(project):
    """Tasks to practise on, oldest first."""
    return (
        Task.objects.filter(project=project, purpose=Purpose.PRACTICE, closed_at=None, known_answer__isnull=False)
        .select_related("prompt", "known_answer")
        .order_by("created_at", "pk")
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


def compared(task, order):
    """{"own", "known", "alike", "pairs", "explanation"}: an order beside the known one, by the numbers of the cards."""
    numbers = {answer["id"]: answer["number"] for answer in shown(task)["answers"]}
    known = [[key for key in group if key in numbers] for group in task.known_answer.order]
    known = [group for group in known if group]
    alike, opposite, *_ties = compare(places_of(known), places_of(order))
    explanation = task.known_answer.explanation
    return {
        "own": [[numbers[key] for key in group] for group in order],
        "known": [[numbers[key] for key in group] for group in known],
        "alike": alike,
        "pairs": alike + opposite,
        "explanation": render_markdown(explanation) if explanation else None,
    }
