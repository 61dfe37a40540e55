"""What the ranking page and the list of one's own rankings show: reads only.

Nothing here names a model, a run or a checkpoint: what reaches an annotator must not betray whose answer it is.
"""

from django.utils import timezone

from annotation import projects
from annotation.models import AssignmentState, Completion
from annotation.rendering import message_text, render_markdown, render_message

RATINGS = range(1, 8)
OVERALL = "overall"
DONE_STATES = (AssignmentState.SUBMITTED, AssignmentState.SURPLUS)


def task_context(assignment, ranking=None):
    """The variables of _task.html. ranking: the version that is being edited."""
    project = assignment.task.project
    form = projects.ranking_form(project)
    completions = Completion.objects.in_bulk(assignment.presented_order, field_name="pk")
    completions = {str(key): completion for key, completion in completions.items()}
    ranks = presented_ranks(assignment, ranking)
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
    return {
        "assignment": assignment,
        "lease_seconds": max(0, int((assignment.lease_expires_at - timezone.now()).total_seconds())),
        "is_edit": ranking is not None,
        "ranking": ranking,
        "order": presented_groups(assignment, ranking),
        "earlier_messages": messages[:-1],
        "question": messages[-1],
        "answers": answers,
        "places": range(1, len(answers) + 1),
        "form": form,
    }


def shown_task(assignment):
    """{"messages", "answers"}: a task as its annotator sees it, to be read only."""
    completions = Completion.objects.in_bulk(assignment.presented_order, field_name="pk")
    completions = {str(key): completion for key, completion in completions.items()}
    return {
        "messages": [render_message(message) for message in assignment.task.prompt.messages],
        "answers": [render_message(completions[key].message) for key in assignment.presented_order],
    }


def presented_groups(assignment, ranking):
    """A ranking's tie groups over the cards shown: identical completions are one card."""
    if ranking is None:
        return []
    shown = set(assignment.presented_order)
    groups = ([key for key in group if key in shown] for group in ranking.order)
    return [group for group in groups if group]


def presented_ranks(assignment, ranking):
    groups = presented_groups(assignment, ranking)
    return {key: rank for rank, group in enumerate(groups, start=1) for key in group}


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


def describe(ranking):
    """A row of the list: the question's first words and the order by the numbers of the cards shown."""
    numbers = {key: number for number, key in enumerate(ranking.presented_order, start=1)}
    groups = [[numbers[key] for key in group if key in numbers] for group in ranking.order]
    return {
        "ranking": ranking,
        "question": question_of(ranking.task.prompt),
        "groups": [group for group in groups if group],
        "is_today": timezone.localdate(ranking.created_at) == timezone.localdate(),
    }
