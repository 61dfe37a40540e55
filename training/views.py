"""The dashboard's pages: where a project stands, its rounds and runs, its models, and how it trains."""

import json

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import projects, quality
from annotation.models import Role
from annotation.permissions import project_for
from plumbline.demo import project as demo
from training import charts, checkpoints, metrics, plans, rounds, runs, standing
from training.forms import CheckpointForm, PlanForm, ProjectForm
from training.models import Checkpoint, CheckpointRole, Round, Run

REFUSALS = (rounds.RoundError, runs.RunError, checkpoints.CheckpointError, demo.DemoError)
ROUNDS_A_PAGE = 20
MOST_LOG_BYTES = 50_000_000
TAIL_BYTES = 8_000


def page(request, template, project, membership, tab, context, status=200):
    base = {"project": project, "membership": membership, "tab": tab, "decides": membership.role == Role.ADMIN}
    return render(request, template, base | context, status=status)


@login_required
@require_GET
def dashboard(request, slug):
    project, membership = project_for(request.user, slug)
    if membership.role == Role.ANNOTATOR:
        return redirect("annotation:rank", slug=slug)
    figures = standing.read_figures(project)
    newest = figures.newest
    context = {
        "figures": figures,
        "standing": standing.compose(figures),
        "steps": standing.loop_steps(figures),
        "round": newest,
        "stages": standing.stages_of(newest, now=timezone.now()),
        "charts": charts_of(newest, charts.OF_ROUND),
        "samples": newest_samples(newest),
        "annotators": quality.annotator_progress(project),
        "has_people": project.memberships.filter(active=True).exclude(user=request.user).exists(),
        "idempotency_key": start_key(figures),
    }
    return page(request, "training/dashboard.html", project, membership, "overview", context)


def start_key(figures):
    """Made from what the page shows: the button pressed twice, or in two windows, starts one round."""
    return f"page-round-{figures.rounds + 1}"


def charts_of(round, specs):
    """[(run, charts)] of a round's runs that draw some."""
    found = sorted(round.runs.all(), key=lambda run: run.position) if round else []
    return [(run, specs[run.stage]) for run in found if run.stage in specs]


def newest_samples(round):
    """The newest answers of the policy in training beside the SFT model's, or []."""
    found = [run for run in round.runs.all() if run.stage == "ppo"] if round else []
    return metrics.samples(found[0]) if found else []


# Rounds


@login_required
@require_http_methods(["GET", "POST"])
def rounds_page(request, slug):
    project, membership = project_for(request.user, slug, Role.ADMIN if request.method == "POST" else Role.REVIEWER)
    if request.method == "POST":
        return start_round(request, project)
    rows = project.rounds.select_related("project", "base_policy", "snapshot")
    shown = Paginator(rows.prefetch_related("runs"), ROUNDS_A_PAGE).get_page(request.GET.get("page"))
    context = {"shown": shown, "rows": [(row, standing.read_round(row)) for row in shown]}
    return page(request, "training/rounds.html", project, membership, "overview", context)


def start_round(request, project):
    try:
        key = request.POST.get("idempotency_key", "").replace("\x00", "")[:128]
        rounds.start_round(project, created_by=request.user, idempotency_key=key)
    except REFUSALS as error:
        messages.error(request, str(error))
    # The dashboard's own sentence says that it has started.
    return redirect("training:dashboard", slug=project.slug)


@login_required
@require_POST
def write_first_answers(request, slug):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    return attempt(
        request,
        lambda: rounds.first_completions(project, created_by=request.user),
        done=_("The model is writing its first answers."),
        then=("training:dashboard", slug),
    )


def attempt(request, action, *, done, then):
    """Does it, says so or why not, and goes on."""
    try:
        action()
    except REFUSALS as error:
        messages.error(request, str(error))
    else:
        messages.success(request, done)
    return redirect(then[0], *then[1:])


@login_required
@require_GET
def round_page(request, slug, number):
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    row = find_round(project, number)
    stages = standing.stages_of(row, now=timezone.now())
    context = {
        "round": row,
        "figures": standing.read_round(row),
        "stages": stages,
        # A run that is cancelled ends a little after its round.
        "is_moving": row.is_active() or any(stage.state == "current" for stage in stages),
        "charts": charts_of(row, charts.OF_ROUND),
        "samples": newest_samples(row),
    }
    return page(request, "training/round.html", project, membership, "overview", context)


def find_round(project, number):
    rows = Round.objects.select_related("project", "snapshot", "base_policy", "created_by").prefetch_related("runs")
    return get_object_or_404(rows, project=project, number=number)


@login_required
@require_POST
def cancel_round(request, slug, number):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    row = find_round(project, number)
    return attempt(
        request,
        lambda: rounds.cancel(row, actor=request.user),
        done=_("The round is being cancelled. What is already trained stays."),
        then=("training:round", slug, number),
    )


@login_required
@require_POST
def retry_round(request, slug, number):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    row = find_round(project, number)
    return attempt(
        request,
        lambda: rounds.retry(row, actor=request.user),
        done=_("The round goes on where it stopped."),
        then=("training:round", slug, number),
    )


# Runs


@login_required
@require_GET
def run_page(request, slug, run_id):
    project, membership = project_for(request.user, slug, Role.REVIEWER)
    run = find_run(project, run_id)
    now = timezone.now()
    context = {
        "run": run,
        "stage": standing.stage_of(run, now=now),
        "charts": [(run, charts.OF_STAGE[run.stage])] if run.stage in charts.OF_STAGE else [],
        "samples": metrics.samples(run),
        "notes": metrics.messages(run),
        "log": metrics.log(run, most_bytes=TAIL_BYTES),
        "attempts": run.attempt_rows.all(),
        "made": run.checkpoints.all(),
        "config": json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False),
    }
    return page(request, "training/run.html", project, membership, "overview", context)


def find_run(project, run_id):
    return get_object_or_404(Run.objects.select_related("project", "round", "created_by"), project=project, id=run_id)


@login_required
@require_POST
def cancel_run(request, slug, run_id):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    run = find_run(project, run_id)
    if runs.request_cancel(run, actor=request.user):
        messages.success(request, _("The run is being cancelled."))
    else:
        messages.error(request, _("This run has ended already."))
    return redirect("training:run", slug, run_id)


@login_required
@require_GET
def run_log(request, slug, run_id):
    """The whole log of all attempts, as a file."""
    project, _membership = project_for(request.user, slug, Role.REVIEWER)
    run = find_run(project, run_id)
    text = metrics.log(run, most_bytes=MOST_LOG_BYTES) or _("This run has written no log yet.") + "\n"
    name = f"{project.slug}-{run.stage}-{str(run.id)[:8]}.log"
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=name)
    return response


# Models


@login_required
@require_http_methods(["GET", "POST"])
def checkpoints_page(request, slug):
    project, membership = project_for(request.user, slug, Role.ADMIN if request.method == "POST" else Role.REVIEWER)
    form = CheckpointForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            made = add_checkpoint(project, form.cleaned_data, actor=request.user)
        except checkpoints.CheckpointError as error:
            form.add_error("path", str(error))
        else:
            if made.was_here:
                sentence = _("This very checkpoint is here already, as %(name)s (%(state)s).")
                messages.info(request, sentence % {"name": made.name, "state": made.get_state_display()})
            else:
                messages.success(request, _("%(name)s is added.") % {"name": made.name})
            return redirect("training:checkpoints", slug=slug)
    rows = project.checkpoints.select_related("parent", "run__round")
    context = {
        "policies": [row for row in rows if row.role != CheckpointRole.REWARD_MODEL],
        "reward_models": [row for row in rows if row.role == CheckpointRole.REWARD_MODEL],
        "form": form,
        "promoted": checkpoints.promoted(project),
    }
    return page(
        request,
        "training/checkpoints.html",
        project,
        membership,
        "checkpoints",
        context,
        status=400 if form.errors else 200,
    )


def add_checkpoint(project, values, *, actor):
    """A checkpoint of one's own; a project's first policy is promoted at once, for there is nothing to compare."""
    made = checkpoints.add_checkpoint(
        project, role=values["role"], path=values["path"], name=values["name"], copy=True, actor=actor
    )
    promote_first(project, made, actor=actor)
    return made


def promote_first(project, made, *, actor):
    if made.role != CheckpointRole.REWARD_MODEL and checkpoints.promoted(project) is None:
        checkpoints.promote(made, actor=actor)


@login_required
@require_POST
def use_starter(request, slug):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    return attempt(
        request,
        lambda: promote_first(project, demo.add_starter(project, actor=request.user), actor=request.user),
        done=_("The starter is added: a small model that tells stories."),
        then=("training:checkpoints", slug),
    )


@login_required
@require_http_methods(["GET", "POST"])
def promote(request, slug, checkpoint_id):
    """A GET asks, and says what follows; a POST does it."""
    project, membership = project_for(request.user, slug, Role.ADMIN)
    row = find_checkpoint(project, checkpoint_id)
    if request.method == "POST":
        return attempt(
            request,
            lambda: checkpoints.promote(row, actor=request.user),
            done=_("%(name)s is promoted.") % {"name": row.name},
            then=("training:checkpoints", slug),
        )
    current = checkpoints.promoted(project)
    context = {
        "checkpoint": row,
        "promoted": current,
        "rolls_back": current is not None and row.created_at < current.created_at,
        "figures": standing.read_round(find_round(project, row.run.round.number))
        if row.run and row.run.round
        else None,
    }
    return page(request, "training/promote.html", project, membership, "checkpoints", context)


@login_required
@require_http_methods(["GET", "POST"])
def withdraw(request, slug, checkpoint_id):
    project, membership = project_for(request.user, slug, Role.ADMIN)
    row = find_checkpoint(project, checkpoint_id)
    if request.method == "POST":
        reason = request.POST.get("reason", "").replace("\x00", "")[:200]
        return attempt(
            request,
            lambda: checkpoints.withdraw(row, actor=request.user, reason=reason),
            done=_("%(name)s is withdrawn.") % {"name": row.name},
            then=("training:checkpoints", slug),
        )
    return page(request, "training/withdraw.html", project, membership, "checkpoints", {"checkpoint": row})


def find_checkpoint(project, checkpoint_id):
    rows = Checkpoint.objects.select_related("project", "run__round", "parent")
    return get_object_or_404(rows, project=project, id=checkpoint_id)


# Settings and new projects


@login_required
@require_http_methods(["GET", "POST"])
def plan(request, slug):
    project, membership = project_for(request.user, slug, Role.ADMIN)
    row = plans.plan_for(project)
    form = PlanForm(request.POST or None, plan=row)
    if request.method == "POST" and form.is_valid():
        form.save(project, actor=request.user)
        messages.success(request, _("Saved. The next round uses these settings."))
        return redirect("training:plan", slug=slug)
    status = 400 if form.errors else 200
    return page(request, "training/plan.html", project, membership, "settings", {"form": form}, status=status)


@login_required
@require_http_methods(["GET", "POST"])
def new_project(request):
    if not request.user.is_staff:
        raise PermissionDenied
    form = ProjectForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            answers = form.cleaned_data
            point = answers.pop("starting_point")
            made = projects.begin_project(point, **answers, created_by=request.user)
        except ValidationError as error:
            form.add_error(None, error.messages)
        else:
            return redirect("training:dashboard", slug=made.slug)
    return render(request, "training/new_project.html", {"form": form}, status=400 if form.errors else 200)
