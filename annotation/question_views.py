"""Questions about tasks: asking one, and the page on which both sides see it and its answer."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import F
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation import questions, ranking_page
from annotation.models import Assignment, Role
from annotation.permissions import has_role, lacks_consent, project_for

QUESTIONS_A_PAGE = 20


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def ask(request, slug, assignment_id):
    """A page of its own for browsers without JavaScript; the ranking page asks through the API."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    assignment = get_object_or_404(Assignment, pk=assignment_id, annotator=request.user, task__project=project)
    error = None
    if request.method == "POST":
        try:
            questions.ask_question(assignment, annotator=request.user, text=request.POST.get("text", ""))
        except questions.QuestionError as refused:
            error = str(refused)
        else:
            messages.success(request, _("Your question is sent. The answer will stand under Questions."))
            return redirect("annotation:rank", slug=slug)
    context = {
        "project": project,
        "membership": membership,
        "tab": "questions",
        "task": ranking_page.shown_task(assignment),
        "error": error,
    }
    return render(request, "annotation/ask.html", context, status=400 if error else 200)


@never_cache
@login_required
@require_http_methods(["GET"])
def question_list(request, slug):
    """One's own questions; reviewers and admins see everybody's, those without an answer first."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    leads = has_role(membership, Role.REVIEWER)
    rows = project.questions.select_related(
        "asked_by", "answered_by", "assignment__task__prompt", "assignment__task__project"
    )
    if not leads:
        rows = rows.filter(asked_by=request.user)
    unanswered_first = rows.order_by(F("answered_at").desc(nulls_first=True), "-asked_at")
    page = Paginator(unanswered_first, QUESTIONS_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "membership": membership,
        "tab": "questions",
        "leads": leads,
        "page": page,
        "rows": [{"question": row, "task": ranking_page.shown_task(row.assignment)} for row in page],
    }
    answer = render(request, "annotation/questions.html", context)
    questions.note_answers_seen(project, request.user, shown=[row.pk for row in page])
    return answer


@login_required
@require_POST
def answer(request, slug, question_id):
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    question = get_object_or_404(project.questions, pk=question_id)
    try:
        questions.answer_question(question, actor=request.user, text=request.POST.get("text", ""))
        messages.success(request, _("Your answer is there for the one who asked."))
    except questions.QuestionError as error:
        messages.error(request, str(error))
    return redirect("annotation:questions", slug=slug)
