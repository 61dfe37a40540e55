"""What the tabs of a project say about questions."""

from django import template

from annotation import questions
from annotation.models import Role

register = template.Library()


@register.simple_tag
def open_questions(project, membership):
    """How many questions wait for an answer; 0 for those who do not answer."""
    if membership is None or membership.role == Role.ANNOTATOR:
        return 0
    return questions.open_questions(project).count()
