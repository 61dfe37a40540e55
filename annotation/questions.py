"""Questions about tasks and their answers: every write to their table."""

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import messages
from annotation.assignment import lock_own
from annotation.audit import record_event
from annotation.models import Question

MAX_TEXT = 5_000  # characters
MOST_OPEN = 50  # of one person in one project: beyond that, talk to each other


class QuestionError(ValueError):
    """A question or an answer that cannot be kept; the message is a sentence for people."""


def check_text(text):
    text = text.replace("\r\n", "\n").strip() if isinstance(text, str) else text
    try:
        messages.check_text(text, field="text", max_length=MAX_TEXT)
    except messages.MessageError as error:
        raise QuestionError(error.message) from None
    if not text:
        raise QuestionError(_("Write something first."))
    return text


@transaction.atomic
def ask_question(assignment, *, annotator, text):
    """The new Question about one's own task; the same text again is the same one. Raises QuestionError, NotYours."""
    assignment = lock_own(assignment, annotator)
    project = assignment.task.project
    text = check_text(text)
    asked = Question.objects.filter(assignment=assignment, asked_by=annotator, text=text).first()
    if asked is not None:
        return asked
    if open_questions(project).filter(asked_by=annotator).count() >= MOST_OPEN:
        raise QuestionError(_("%(count)d questions of yours wait for an answer already.") % {"count": MOST_OPEN})
    return Question.objects.create(project=project, assignment=assignment, asked_by=annotator, text=text)


@transaction.atomic
def answer_question(question, *, actor, text):
    """The question with this answer; one that it had is replaced, and is new again to the one who asked."""
    text = check_text(text)
    Question.objects.filter(pk=question.pk).update(
        answer=text, answered_by=actor, answered_at=timezone.now(), answer_seen_at=None
    )
    record_event(question.project, actor=actor, action="question.answered", subject=question.pk)
    question.refresh_from_db()
    return question


def note_answers_seen(project, user, *, shown):
    """How many answers this person has now seen for the first time. shown: ids of the questions on the page."""
    return unseen_answers(project, user).filter(pk__in=shown).update(answer_seen_at=timezone.now())


def open_questions(project):
    """Those that nobody has answered."""
    return Question.objects.filter(project=project, answered_at=None)


def unseen_answers(project, user):
    """This person's questions whose answer they have not seen."""
    return Question.objects.filter(project=project, asked_by=user, answered_at__isnull=False, answer_seen_at=None)
