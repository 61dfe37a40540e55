"""Practising: one task after another, each explained once it is ranked."""

from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from annotation import practice
from annotation.permissions import lacks_consent, project_for
from annotation.ranking_form import form_of
from annotation.views import DIGITS


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def practise(request, slug):
    """?page= is the task's number; a POST compares one's order with the known one."""
    project, membership = project_for(request.user, slug)
    if lacks_consent(project, membership):
        return redirect("annotation:consent", slug=slug)
    page = Paginator(practice.practice_tasks(project), 1).get_page(request.GET.get("page"))
    task = page[0] if len(page) else None
    context = {
        "project": project,
        "membership": membership,
        "tab": "guidelines",
        "page": page,
        "sensitive": form_of(project)["sensitive"],
    }
    status = 200
    if task is not None:
        context |= practice.shown(task)
        context["places"] = range(1, len(context["answers"]) + 1)
    if task is not None and request.method == "POST":
        order = read_order(request.POST, context["answers"])
        if len(order) < 2:
            context["error"] = _("Put at least one answer before another.")
            status = 400
        else:
            context["result"] = practice.compared(task, order)
    return render(request, "annotation/practice.html", context, status=status)


def read_order(posted, answers):
    """Tie groups of answer ids by the places chosen; each answer remembers its place for the page."""
    places = {}
    for answer in answers:
        place = posted.get(f"place-{answer['id']}", "")
        if place in DIGITS:
            answer["place"] = int(place)
            places.setdefault(int(place), []).append(answer["id"])
    return [places[place] for place in sorted(places)]
