"""The reviewers' page of known answers: what there is, files of more, and taking one out."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation import forms, known_answers, practice, ranking_page
from annotation.assignment import TaskError, close_task
from annotation.models import Role
from annotation.permissions import project_for
from annotation.prompts import clean_file_name

TASKS_A_PAGE = 20


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def known_answer_list(request, slug):
    """Hidden checks and practice tasks; a POST adds those of a file, all or none."""
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    form = forms.KnownAnswersForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        purpose = form.cleaned_data["purpose"]
        try:
            report = import_upload(project, request.user, form.cleaned_data["file"], purpose)
        except TaskError as error:
            form.add_error("file", _("Nothing was added: %(what)s") % {"what": error})
        else:
            messages.success(request, known_answers.describe(report, purpose))
            return redirect("annotation:known_answers", slug=slug)
    page = Paginator(practice.known_answer_tasks(project), TASKS_A_PAGE).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "membership": membership,
        "tab": "quality",
        "form": form,
        "page": page,
        "rows": [read_row(task) for task in page],
    }
    return render(request, "annotation/known_answers.html", context, status=400 if form.errors else 200)


def import_upload(project, user, file, purpose):
    file_name = clean_file_name(file.name)
    name = file_name.rsplit(".", 1)[0] or str(purpose)
    return known_answers.import_file(
        project, file=file, name=name[:200], file_name=file_name, purpose=purpose, actor=user
    )


def read_row(task):
    shown = practice.shown(task)
    return {
        "task": task,
        "question": ranking_page.question_of(task.prompt),
        "shown": {"messages": shown["conversation"], "answers": shown["answers"]},
        "known": practice.known_order(task, shown["answers"]),
    }


@login_required
@require_POST
def take_out(request, slug, task_id):
    """Nobody is asked the task any more; what was answered stays."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    close_task(get_object_or_404(practice.known_answer_tasks(project), pk=task_id), actor=request.user)
    messages.success(request, _("It is no longer asked. Answers that were given still count as before."))
    return redirect("annotation:known_answers", slug=slug)
