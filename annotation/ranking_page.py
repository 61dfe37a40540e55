"""What the ranking page and the list of one's own rankings show: reads only.

Nothing here names a model, a run or a checkpoint: what reaches an annotator must not betray whose answer it is.
"""

from django.utils import timezone

from annotation import differences, projects
from annotation.models import AssignmentState, Completion
from annotation.ranking_form import form_of, turn
from annotation.rendering import message_text, render_markdown, render_message, render_pieces
from annotation.words import STRENGTHS

RATINGS = range(1, 8)
OVERALL = "overall"
DONE_STATES = (AssignmentState.SUBMITTED, AssignmentState.SURPLUS)


def task_context(assignment, ranking=None, *, note="", has_scripts=False):
    """The variables of _task.html.

    ranking: the version that is being edited. note: what the person wrote before the answers. has_scripts: the
    browser's scripts ask, which hide the answers until there is a note; without them the answers are not sent before.
    """
    project = assignment.task.project
    form = form_of(project)
    completions = shown_completions(assignment)
    groups = presented_groups(ranking, form) if ranking else []
    ranks = {key: rank for rank, group in enumerate(groups, start=1) for key in group}
    answers = [
        {
            "id": key,
            "number": number,
            "rank": ranks.get(key),
            "flags": [
                {**flag, "checked": ranking is not None and flag["key"] in ranking.flags.get(key, ())}
                for flag in form["flags"]
            ],
            "axes": rating_axes(form, ranking.ratings.get(key, {}) if ranking else {}),
            "text": message_text(completions[key].message),
            **render_message(completions[key].message),
        }
        for number, key in enumerate(assignment.presented_order, start=1)
    ]
    messages = [render_message(message) for message in assignment.task.prompt.messages]
    is_noted = ranking is not None or bool(note)
    return {
        "assignment": assignment,
        "is_edit": ranking is not None,
        "ranking": ranking,
        "note": ranking.note if ranking else note,
        "is_noted": is_noted,
        "shows_answers": is_noted or has_scripts or not form["note"],
        "order": groups,
        "earlier_messages": messages[:-1],
        "question": messages[-1],
        "answers": answers,
        "places": range(1, len(answers) + 1),
        "form": form,
        "strengths": STRENGTHS if form["strength"] and len(answers) == 2 else None,
        "guideline_version": projects.guideline_version(project),
    }


def shown_task(assignment):
    """{"messages", "answers", "sensitive"}: a task as its annotator sees it, to be read only."""
    completions = shown_completions(assignment)
    return {
        "messages": [render_message(message) for message in assignment.task.prompt.messages],
        "answers": [render_message(completions[key].message) for key in assignment.presented_order],
        "sensitive": form_of(assignment.task.project)["sensitive"],
    }


def shown_completions(assignment):
    """{id as text: Completion} of the cards."""
    return {str(key): found for key, found in Completion.objects.in_bulk(assignment.presented_order).items()}


def presented_groups(ranking, form):
    """A ranking's tie groups as the page shows them, over its cards: identical completions are one card."""
    shown = set(ranking.presented_order)
    groups = ([key for key in group if key in shown] for group in ranking.order)
    return turn([group for group in groups if group], form)


def difference(assignment, first, second):
    """The variables of _difference.html. first, second: ids of two of its cards. Raises KeyError."""
    completions = shown_completions(assignment)
    sides = completions[first], completions[second]
    found = differences.compare(*(message_text(side.message) for side in sides))
    numbers = [assignment.presented_order.index(key) + 1 for key in (first, second)]
    pieces = (found.first, found.second)
    alone = (found.only_first, found.only_second)
    return {
        "difference": found,
        "sides": [
            {"number": number, "alone": count, "html": render_pieces(side)}
            for number, count, side in zip(numbers, alone, pieces, strict=True)
        ],
    }


def rating_axes(form, ratings):
    axes = [{"key": OVERALL, "label": None}] if form["overall"] else []
    axes += form["axes"]
    return [{**axis, "value": ratings.get(axis["key"]), "values": RATINGS} for axis in axes]


def guideline_html(project):
    guideline = projects.current_guideline(project)
    return render_markdown(guideline.text) if guideline else None


def question_of(prompt):
    """The first words of what was asked."""
    return message_text(prompt.messages[-1])[:200]


def describe(ranking, form):
    """A row of the list: the question's first words and the order by the numbers of the cards shown."""
    numbers = {key: number for number, key in enumerate(ranking.presented_order, start=1)}
    groups = presented_groups(ranking, form)
    return {
        "ranking": ranking,
        "question": question_of(ranking.task.prompt),
        "groups": [[numbers[key] for key in group] for group in groups],
        "is_today": timezone.localdate(ranking.created_at) == timezone.localdate(),
    }
