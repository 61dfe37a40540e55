"""The annotator's pages: ranking, changing a ranking, one's own work."""

import uuid

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import assignment as assignments
from annotation import own_work, projects, qualification, quality, questions, ranking_page
from annotation.assignment import Conflict, NotYours
from annotation.models import Assignment, Ranking
from annotation.permissions import lacks_consent, project_for
from annotation.ranking_form import form_of, turn
from annotation.rankings import RankingError, submit_ranking
from annotation.rendering import render_markdown
from annotation.words import ranking_words

POLL_SECONDS = 15
RANKINGS_A_PAGE = 50
DIGITS = frozenset("123456789")  # what a form's places and ratings can be


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def rank(request, slug):
    """The ranking page. A POST comes from a browser without JavaScript."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    if request.method == "POST":
        return rank_by_form(request, project, membership)
    assignment = assignments.next_assignment(project, annotator=request.user)
    return render_page(request, project, membership, assignment)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def edit_ranking(request, slug, assignment_id):
    """A ranking of one's own, to be changed: the change is a new version."""
    project, membership = project_for(request.user, slug)
    assignment = get_object_or_404(
        Assignment, pk=assignment_id, annotator=request.user, task__project=project, state__in=ranking_page.DONE_STATES
    )
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    if request.method == "POST":
        return rank_by_form(request, project, membership)
    ranking = get_object_or_404(assignment.rankings, is_current=True)
    return render_page(request, project, membership, assignment, ranking)


@never_cache
@login_required
@require_POST
def rank_task(request, slug):
    """The next task as a part of the page, and where one stands in the test; ?ahead=1 loads the task after it.

    204: nothing is waiting, and there is no test.
    """
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        raise PermissionDenied(_("Say first whether you want to see these texts."))
    ahead = request.GET.get("ahead") == "1"
    assignment = assignments.next_assignment(project, annotator=request.user, ahead=ahead)
    test = qualification.standing(project, request.user)
    if assignment is None and test is None:
        return HttpResponse(status=204)
    context = ranking_page.task_context(assignment, has_scripts=True) if assignment else {}
    return render(request, "annotation/_next.html", context | {"project": project, "test": test})


@never_cache
@login_required
@require_POST
def difference(request, slug, assignment_id):
    """What differs between the answers ?first=ID and ?second=ID of one's own task, as a part of the page."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        raise PermissionDenied(_("Say first whether you want to see these texts."))
    assignment = get_object_or_404(Assignment, pk=assignment_id, annotator=request.user, task__project=project)
    try:
        found = ranking_page.difference(assignment, request.GET.get("first"), request.GET.get("second"))
    except KeyError:
        raise Http404 from None
    return render(request, "annotation/_difference.html", found)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def consent(request, slug):
    """Whether one wants to see texts that may be disturbing, asked before the first of them is shown."""
    project, membership = project_for(request.user, slug)
    if request.method == "POST":
        agrees = request.POST.get("agrees") == "1"
        projects.set_consent(project, request.user, given=agrees)
        return redirect("annotation:rank", slug=slug) if agrees else redirect("home")
    warning = form_of(project)["warning"]
    context = {"project": project, "membership": membership, "warning": render_markdown(warning) if warning else None}
    return render(request, "annotation/consent.html", context)


@login_required
@require_GET
def work(request, slug):
    """One's own rankings, today's and earlier, found by ?words=, each with a way to change it; and how one gets on."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    words = request.GET.get("words", "").replace("\x00", "")[:200]
    paginator = Paginator(own_work.own_rankings(project, request.user, words=words), RANKINGS_A_PAGE)
    page = paginator.get_page(request.GET.get("page"))
    form = form_of(project)
    context = {
        "project": project,
        "membership": membership,
        "tab": "work",
        "page": page,
        "rows": [ranking_page.describe(ranking, form) for ranking in page],
        "progress": quality.today(project, annotator=request.user),
        "words": words,
        "figures": own_work.figures(project, request.user),
        "sensitive": form["sensitive"],
    }
    return render(request, "annotation/work.html", context)


def render_page(request, project, membership, assignment, ranking=None, *, error=None, note="", task_url=None):
    """note: written before the answers are shown. task_url: where the next task comes from, if not from the queue."""
    page_progress = quality.today(project, annotator=request.user)
    form = form_of(project)
    context = {
        "project": project,
        "membership": membership,
        "tab": "rank",
        "error": error,
        "progress": page_progress,
        "guideline": ranking_page.guideline_html(project),
        "client_id": uuid.uuid4(),
        "test": qualification.standing(project, request.user),
        "new_answers": questions.unseen_answers(project, request.user).count(),
        "form": form,
        "page_data": page_data(request, project, page_progress, form, task_url),
    }
    if assignment is not None:
        context |= ranking_page.task_context(assignment, ranking, note=note)
    return render(request, "annotation/rank.html", context, status=400 if error else 200)


def page_data(request, project, page_progress, form, task_url=None):
    """What the page's scripts need to know; ASSIGNMENT stands for an id."""
    return {
        "key": f"{request.user.pk}:{project.slug}",
        "person": str(request.user.pk),
        "progress": page_progress,
        "poll_seconds": POLL_SECONDS,
        "words": ranking_words(form),
        "objective": form["objective"],
        "guideline_version": projects.guideline_version(project),
        "is_new": not Ranking.objects.filter(task__project=project, annotator=request.user).exists(),
        "heartbeat_seconds": max(5, min(60, project.lease_seconds // 3)),
        "urls": {
            "task": task_url or reverse("annotation:rank_task", args=[project.slug]),
            "work": reverse("annotation:work", args=[project.slug]),
            "assignment": "/api/v1/assignments/ASSIGNMENT/",
            "difference": reverse("annotation:difference", args=[project.slug, uuid.UUID(int=0)]).replace(
                str(uuid.UUID(int=0)), "ASSIGNMENT"
            ),
            "demonstrations": f"/api/v1/projects/{project.slug}/demonstrations/",
        },
    }


def rank_by_form(request, project, membership, *, then="annotation:rank"):
    """then: the name of the page that comes after."""
    assignment = get_object_or_404(
        Assignment.objects.filter(annotator=request.user, task__project=project),
        pk=parse_uuid(request.POST, "assignment"),
    )
    note = request.POST.get("note", "").strip()
    if request.POST.get("action") == "note":
        error = None if note else _("Write your note first.")
        return render_page(request, project, membership, assignment, error=error, note=note)
    try:
        if request.POST.get("action") == "skip":
            assignments.skip(assignment, annotator=request.user, reason=request.POST.get("skip_reason", ""))
            messages.success(request, _("Skipped. You will not be asked about it again."))
        else:
            submit_ranking(assignment, annotator=request.user, **read_form(request.POST, assignment))
            messages.success(request, _("Your ranking is saved."))
    except RankingError as error:
        return render_page(request, project, membership, assignment, error=error.message, note=note)
    except (Conflict, NotYours) as error:
        messages.error(request, str(error))
    return redirect(then, slug=project.slug)


def parse_uuid(values, name):
    try:
        return uuid.UUID(values.get(name, ""))
    except ValueError:
        raise Http404 from None


def read_form(posted, assignment):
    """A posted form -> the keyword arguments of submit_ranking; equal places are a tie."""
    places = {}
    flags, ratings = {}, {}
    for key in assignment.presented_order:
        place = posted.get(f"place-{key}", "")
        if place in DIGITS:
            places.setdefault(int(place), []).append(key)
        flags[key] = posted.getlist(f"flag-{key}")
        prefix = f"rating-{key}-"
        ratings[key] = {
            name.removeprefix(prefix): int(value)
            for name, value in posted.items()
            if name.startswith(prefix) and value in DIGITS
        }
    return {
        "client_id": posted.get("client_id", ""),
        "order": turn([places[place] for place in sorted(places)], form_of(assignment.task.project)),
        "none_acceptable": posted.get("none_acceptable") == "on",
        "flags": {key: value for key, value in flags.items() if value},
        "ratings": {key: value for key, value in ratings.items() if value},
        "rationale": posted.get("rationale", ""),
        "note": posted.get("note", ""),
        "strength": int(posted["strength"]) if posted.get("strength") in DIGITS else None,
    }
