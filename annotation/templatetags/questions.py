"""What the tabs of a project say about questions."""

from django import template

from annotation import questions
from annotation.models import Role
from annotation.permissions import has_role

register = template.Library()


@register.simple_tag
def open_questions(project, membership):
    """How many questions wait for an answer; 0 for those who do not answer."""
    if membership is None or not has_role(membership, Role.REVIEWER):
        return 0
    return questions.open_questions(project).count()
