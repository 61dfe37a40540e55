"""Home, accounts and errors: the pages that belong to no project."""

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from annotation import projects
from annotation.models import Project
from plumbline import tokens
from plumbline.api import error_response
from plumbline.forms import TokenForm
from plumbline.models import User


@login_required
@require_GET
def home(request):
    """One's projects; a superuser's are all. An annotator of a single project goes straight to ranking."""
    if request.user.is_superuser:
        found = [projects.membership(project, request.user) for project in Project.objects.order_by("name", "pk")]
    else:
        found = request.user.memberships.filter(active=True).select_related("project").order_by("project__name", "pk")
    memberships = [member for member in found if not member.project.archived_at]
    if len(memberships) == 1 and memberships[0].role == "annotator":
        return redirect("annotation:rank", slug=memberships[0].project.slug)
    archived = [member for member in found if member.project.archived_at]
    return render(request, "home.html", {"memberships": memberships, "archived": archived})


@never_cache
@require_http_methods(["GET", "POST"])
@sensitive_variables("secret")
def sign_in_with_link(request, secret):
    """A GET only shows a button: mail scanners and chat previews open links too, and must not use them up."""
    if request.method == "GET":
        link = tokens.find_sign_in_link(secret)
        return render(request, "account/sign_in_link.html", {"link": link}, status=200 if link else 410)
    user = tokens.use_sign_in_link(secret)
    if user is None:
        return render(request, "account/sign_in_link.html", {"link": None}, status=410)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect("home")


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def api_tokens(request):
    """One's API tokens; a POST makes one, whose plain text this answer alone shows."""
    form = TokenForm(request.POST or None, user=request.user)
    new_token = None
    if request.method == "POST" and form.is_valid():
        new_token = tokens.create_token(request.user, **form.cleaned_data)
        form = TokenForm(user=request.user)
    live_tokens = request.user.api_tokens.filter(revoked_at=None).select_related("project")
    context = {"form": form, "new_token": new_token, "tokens": live_tokens}
    return render(request, "account/tokens.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def revoke_api_token(request, token_id):
    if tokens.revoke_token(request.user, token_id=token_id):
        messages.success(request, _("The token no longer works."))
    return redirect("api_tokens")


@require_GET
def healthy(request):
    """For load balancers and `plumbline up`: the web server answers and its database does too."""
    User.objects.exists()
    return HttpResponse("ok\n", content_type="text/plain")


def locked_out(request, credentials=None, *args, **kwargs):
    return render(request, "account/locked_out.html", status=429)


def csrf_failure(request, reason=""):
    message = _("This form was open for too long or came from another site. Go back, reload the page and try again.")
    return error_page(request, 403, _("Please try again"), message, code="csrf_failed")


def bad_request(request, exception):
    return error_page(request, 400, _("Bad request"), _("This request is malformed."), code="bad_request")


def permission_denied(request, exception):
    message = _("You may not see this page. A project's admins can give you the role for it.")
    return error_page(request, 403, _("Not allowed"), message, code="permission_denied")


def page_not_found(request, exception):
    message = _("There is nothing at this address. It may have moved, or it belongs to a project that you are not in.")
    return error_page(request, 404, _("Not found"), message, code="not_found")


def server_error(request):
    message = _("Something went wrong on the server. It was written to the log; trying again may help.")
    return error_page(request, 500, _("Something went wrong"), message, code="server_error")


def error_page(request, status, title, message, *, code):
    if request.path.startswith("/api/"):
        return error_response(code, message, status=status)
    return render(request, "error.html", {"heading": title, "message": message}, status=status)
