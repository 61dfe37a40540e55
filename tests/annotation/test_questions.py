"""Questions about tasks: asked by whoever has the task, answered by reviewers and admins, seen by these two alone."""

import pytest
from django.urls import reverse

from annotation import assignment, questions
from annotation.models import AuditEvent, Question

pytestmark = pytest.mark.django_db


@pytest.fixture
def lease(project, annotator, task):
    return assignment.next_assignment(project, annotator=annotator)


@pytest.fixture
def question(lease, annotator):
    return questions.ask_question(lease, annotator=annotator, text="Does spelling count?")


def page_of(client, project):
    return client.get(reverse("annotation:questions", args=[project.slug]))


def test_it_is_asked_through_the_api_once(api_for, annotator, lease):
    path = f"/api/v1/assignments/{lease.pk}/question/"
    client = api_for(annotator)
    first = client.post(path, {"text": " Does spelling count? "})
    assert (first.status_code, first.data["text"]) == (201, "Does spelling count?")
    assert client.post(path, {"text": "Does spelling count?"}).data["id"] == first.data["id"]
    assert Question.objects.get().asked_by == annotator


@pytest.mark.parametrize("body", [{}, {"text": " "}, {"text": "a\x00b"}, {"text": "x" * 5001}, {"text": "a", "b": 1}])
def test_it_refuses_what_is_no_question(api_for, annotator, lease, body):
    assert api_for(annotator).post(f"/api/v1/assignments/{lease.pk}/question/", body).status_code == 400


def test_nobody_asks_about_anothers_task(api_for, second_annotator, admin, outsider, lease):
    for user in (second_annotator, admin, outsider):
        assert api_for(user).post(f"/api/v1/assignments/{lease.pk}/question/", {"text": "?"}).status_code == 404


def test_it_is_asked_with_a_form_as_well(client_for, annotator, project, lease):
    client = client_for(annotator)
    path = reverse("annotation:ask_question", args=[project.slug, lease.pk])
    assert "Once A." in client.get(path).content.decode()
    assert client.post(path, {"text": ""}).status_code == 400
    assert client.post(path, {"text": "Which one?"}).status_code == 302
    assert Question.objects.get().text == "Which one?"


def test_both_sides_see_question_task_and_answer(client_for, annotator, reviewer, project, question):
    lead = client_for(reviewer)
    shown = page_of(lead, project).content.decode()
    assert "Does spelling count?" in shown and "Once A." in shown and "annotator ·" in shown
    assert 'title="Not answered yet">1</span>' in shown
    path = reverse("annotation:answer_question", args=[project.slug, question.pk])
    lead.post(path, {"text": "Only when it misleads."})
    assert "Not answered yet" not in page_of(lead, project).content.decode()
    asker = client_for(annotator)
    ranking_page = asker.get(reverse("annotation:rank", args=[project.slug])).content.decode()
    assert "1 new answer" in ranking_page
    answered = page_of(asker, project).content.decode()
    assert "Only when it misleads." in answered and "new answer" in answered
    # Seen once, it is no longer new.
    assert "new answer" not in page_of(asker, project).content.decode()
    assert AuditEvent.objects.filter(action="question.answered", actor=reviewer).count() == 1


def test_a_changed_answer_is_new_again(annotator, reviewer, project, question):
    questions.answer_question(question, actor=reviewer, text="Yes.")
    assert questions.note_answers_seen(project, annotator, shown=[]) == 0
    shown = list(project.questions.values_list("pk", flat=True))
    assert questions.note_answers_seen(project, annotator, shown=shown) == 1
    questions.answer_question(question, actor=reviewer, text="No.")
    assert questions.unseen_answers(project, annotator).get().answer == "No."


def test_others_see_and_answer_nothing(client_for, second_annotator, outsider, project, question):
    assert "Does spelling count?" not in page_of(client_for(second_annotator), project).content.decode()
    path = reverse("annotation:answer_question", args=[project.slug, question.pk])
    assert client_for(second_annotator).post(path, {"text": "Yes."}).status_code == 403
    assert client_for(outsider).post(path, {"text": "Yes."}).status_code == 404
    assert page_of(client_for(outsider), project).status_code == 404
    question.refresh_from_db()
    assert question.answer == ""


def test_nobody_leaves_more_questions_open_than_somebody_could_answer(lease, annotator, monkeypatch):
    monkeypatch.setattr(questions, "MOST_OPEN", 1)
    questions.ask_question(lease, annotator=annotator, text="One?")
    with pytest.raises(questions.QuestionError, match="wait for an answer"):
        questions.ask_question(lease, annotator=annotator, text="Two?")


def test_the_page_names_no_model(client_for, annotator, project, question):
    shown = page_of(client_for(annotator), project).content.decode()
    assert "checkpoint" not in shown and "a" * 64 not in shown
