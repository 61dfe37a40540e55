"""The reviewers' pages: how good judgments are, who is under quarantine, what people disagree on."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import (
    adjudication,
    forms,
    judgments,
    known_answers,
    quality_page,
    quarantine,
    ranking_page,
    views,
    withdrawals,
)
from annotation.assignment import TaskError
from annotation.models import Ranking, Role, Suspicion, Task
from annotation.permissions import lacks_consent, project_for

DISPUTES_SHOWN = 50


@never_cache
@login_required
@require_GET
def quality(request, slug):
    """How far people agree, each annotator's figures, and what waits for a decision."""
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    people, others = (judgments.in_use(project, simulated=simulated).exists() for simulated in (False, True))
    simulated = request.GET.get("who", "" if people or not others else "simulated") == "simulated"
    context = {
        "project": project,
        "membership": membership,
        "tab": "quality",
        "simulated": simulated,
        "has_both": people and others,
        "withdrawal_form": forms.WithdrawalForm(project=project),
        **quality_page.read_page(project, simulated=simulated),
    }
    return render(request, "annotation/quality.html", context)


@login_required
@require_POST
def suspicion_decide(request, slug, suspicion_id):
    """Clears or confirms a suspicion."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    suspicion = get_object_or_404(
        Suspicion.objects.select_related("membership__user", "membership__project"),
        pk=suspicion_id,
        membership__project=project,
    )
    if request.POST.get("decision") == "clear":
        released = quarantine.clear(suspicion, actor=request.user)
        if released is not None:
            messages.success(request, _("%(name)s’s rankings count again.") % {"name": suspicion.membership.user})
    elif request.POST.get("decision") == "confirm":
        withdrawal = quarantine.confirm(suspicion, actor=request.user, reason=_("after a suspicion"))
        messages.success(request, describe_withdrawal(withdrawal))
    return redirect("annotation:quality", slug=slug)


@login_required
@require_POST
def member_quarantine(request, slug):
    """Puts a member under quarantine by hand, or takes a confirmed one out."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    form = forms.QuarantineForm(request.POST)
    if form.is_valid():
        member = get_object_or_404(project.memberships, pk=form.cleaned_data["member"])
        if form.cleaned_data["quarantined"]:
            quarantine.suspect(member, note=_("A reviewer had doubts."), actor=request.user)
        else:
            quarantine.lift(member, actor=request.user)
    return redirect("annotation:quality", slug=slug)


def describe_withdrawal(withdrawal):
    if withdrawal is None:
        return _("There was nothing to withdraw.")
    sentences = [
        ngettext(
            "%(n)d ranking is withdrawn; its task goes to others.",
            "%(n)d rankings are withdrawn; their tasks go to others.",
            withdrawal.count,
        )
        % {"n": withdrawal.count}
    ]
    if written := withdrawal.demonstrations.count():
        sentences.append(
            ngettext("%(n)d written answer is withdrawn.", "%(n)d written answers are withdrawn.", written)
            % {"n": written}
        )
    return " ".join(sentences)


@login_required
@require_POST
def withdraw(request, slug):
    """Withdraws a person's judgments of a period."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    form = forms.WithdrawalForm(request.POST, project=project)
    if form.is_valid():
        withdrawal = withdrawals.withdraw(project, actor=request.user, **form.period())
        messages.success(request, describe_withdrawal(withdrawal))
    else:
        messages.error(request, " ".join(error for errors in form.errors.values() for error in errors))
    return redirect("annotation:quality", slug=slug)


@login_required
@require_POST
def withdrawal_reverse(request, slug, withdrawal_id):
    """Brings withdrawn judgments back."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    used = withdrawals.reverse(get_object_or_404(project.withdrawals, pk=withdrawal_id), actor=request.user)
    if used is not None:
        messages.success(
            request, ngettext("%(n)d ranking counts again.", "%(n)d rankings count again.", used) % {"n": used}
        )
    return redirect("annotation:quality", slug=slug)


@never_cache
@login_required
@require_GET
def disputes(request, slug):
    """Tasks that people order differently, and those that reviewers have settled."""
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    found = adjudication.disputes(project)
    context = {
        "project": project,
        "membership": membership,
        "tab": "quality",
        "count": len(found),
        "disputes": [(task, ranking_page.question_of(task.prompt)) for task in found[:DISPUTES_SHOWN]],
        "settled": [
            (ranking, ranking_page.question_of(ranking.task.source.prompt))
            for ranking in adjudication.settled(project)[:DISPUTES_SHOWN]
        ],
    }
    return render(request, "annotation/disputes.html", context)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def settle(request, slug):
    """The ranking page over disputes; ?task=… begins with that one."""
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    if request.method == "POST":
        return views.rank_by_form(request, project, membership, then="annotation:settle")
    wanted = views.parse_uuid(request.GET, "task") if "task" in request.GET else None
    task = get_object_or_404(Task, pk=wanted, project=project) if wanted else None
    assignment = adjudication.next_dispute(project, reviewer=request.user, task=task)
    if assignment is None:
        messages.success(request, _("No dispute waits for you."))
        return redirect("annotation:disputes", slug=slug)
    return views.render_page(
        request, project, membership, assignment, task_url=reverse("annotation:settle_task", args=[slug])
    )


@never_cache
@login_required
@require_POST
def settle_task(request, slug):
    """The next dispute as a part of the page; 204: none. None is loaded ahead: each is somebody's to settle."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    if request.GET.get("ahead") == "1":
        return HttpResponse(status=204)
    assignment = adjudication.next_dispute(project, reviewer=request.user)
    if assignment is None:
        return HttpResponse(status=204)
    return render(request, "annotation/_task.html", ranking_page.task_context(assignment, has_scripts=True))


@login_required
@require_POST
def make_check(request, slug, ranking_id):
    """Makes a hidden check of a settled task, with the reviewer's order as the known answer."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    ranking = get_object_or_404(
        Ranking.objects.in_use().select_related("task__source"),
        pk=ranking_id,
        task__project=project,
        task__purpose="adjudication",
    )
    try:
        known_answers.make_check(
            ranking.task.source, order=ranking.order, actor=request.user, explanation=ranking.rationale
        )
        messages.success(request, _("From now on it is asked among the other tasks, unseen."))
    except TaskError as error:
        messages.error(request, error.message)
    return redirect("annotation:disputes", slug=slug)
