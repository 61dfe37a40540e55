"""The admins' pages of a project, the guideline that all its people read, and joining by invitation."""

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from annotation import assignment, forms, judgments, practice, projects, qualification, quality
from annotation.formats import EXPORTS
from annotation.models import ProposalState, Role
from annotation.permissions import has_role, project_for
from annotation.prompts import PromptError, clean_file_name, import_prompts, set_active
from annotation.rendering import render_markdown
from plumbline import accounts

PASSWORD_BACKEND = "django.contrib.auth.backends.ModelBackend"


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def prompts(request, slug):
    """Prompt sets and their import."""
    project, membership = project_for(request.user, slug, Role.ADMIN)
    form = forms.PromptsForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        try:
            report = import_upload(project, request.user, form.cleaned_data)
        except PromptError as error:
            form.add_error("file", str(error))
        else:
            messages.success(request, describe_import(report))
            return redirect("annotation:prompts", slug=slug)
    context = {
        "project": project,
        "membership": membership,
        "tab": "prompts",
        "form": form,
        "prompt_sets": project.prompt_sets.select_related("created_by").order_by("-created_at"),
        "queue": assignment.queue_figures(project),
        "proposed": project.prompt_proposals.filter(state=ProposalState.WAITING).count(),
    }
    return render(request, "annotation/manage_prompts.html", context, status=400 if form.errors else 200)


def import_upload(project, user, data):
    file_name = clean_file_name(data["file"].name)
    return import_prompts(
        project,
        name=data["name"] or file_name.rsplit(".", 1)[0] or "prompts",
        file=data["file"],
        file_name=file_name,
        created_by=user,
        pool=data["pool"] or None,
    )


def describe_import(report):
    values = {"set": str(report.prompt_set), "prompts": report.prompts}
    if report.already_imported:
        return _("This very file is already here as %(set)s; nothing was changed.") % values
    sentence = _("Imported %(prompts)d prompts as %(set)s.") % values
    duplicates = report.dropped.get("duplicate", 0)
    if duplicates:
        sentence += " " + _("%(count)d stood in the file twice and were left out.") % {"count": duplicates}
    return sentence


@login_required
@require_POST
def prompt_set_active(request, slug, prompt_set_id):
    """Retires a prompt set, or takes it up again."""
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    prompt_set = get_object_or_404(project.prompt_sets, pk=prompt_set_id)
    set_active(prompt_set, active=request.POST.get("active") == "1", actor=request.user)
    return redirect("annotation:prompts", slug=slug)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
@sensitive_variables("token")
def members(request, slug):
    """Who belongs to the project, how they get on, and invitations; a new link is shown this once."""
    project, membership = project_for(request.user, slug, Role.ADMIN)
    form = forms.InvitationForm(request.POST or None)
    link = None
    if request.method == "POST" and form.is_valid():
        _invitation, token = projects.create_invitation(project, created_by=request.user, **form.cleaned_data)
        link = request.build_absolute_uri(reverse("annotation:invitation", args=[token]))
        form = forms.InvitationForm()
    context = {
        "project": project,
        "membership": membership,
        "tab": "members",
        "form": form,
        "link": link,
        "progress": quality.annotator_progress(project),
        "roles": Role.choices,
        "qualifications": project.qualifications.filter(void_at=None).select_related("user"),
        "invitations": project.invitations.filter(
            accepted_at=None, revoked_at=None, expires_at__gt=timezone.now()
        ).select_related("created_by"),
    }
    return render(request, "annotation/manage_members.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def member_change(request, slug):
    """Changes a member's role, or ends or renews the membership."""
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    form = forms.MemberForm(request.POST)
    if form.is_valid():
        member = get_object_or_404(project.memberships.select_related("user"), pk=form.cleaned_data["member"])
        try:
            projects.change_member(
                member,
                actor=request.user,
                role=form.cleaned_data["role"] or None,
                active=form.cleaned_data["active"],
            )
            messages.success(request, member_changed(member, form.cleaned_data))
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
    return redirect("annotation:members", slug=slug)


def member_changed(member, change):
    """What a change of a membership came to, as a sentence."""
    name = member.user.get_username()
    if change["active"] is False:
        sentence = _("%(name)s no longer works here; their rankings stay. They can be taken back at any time.")
        return sentence % {"name": name}
    if change["active"]:
        return _("%(name)s works here again.") % {"name": name}
    return _("%(name)s is now: %(role)s.") % {"name": name, "role": member.get_role_display()}


@login_required
@require_POST
def qualification_again(request, slug, qualification_id):
    """Lets a person take the project's test once more."""
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    found = get_object_or_404(project.qualifications.select_related("user"), pk=qualification_id)
    if qualification.let_try_again(found, actor=request.user):
        messages.success(request, _("%(name)s takes the test again.") % {"name": found.user})
    return redirect("annotation:members", slug=slug)


@login_required
@require_POST
def invitation_revoke(request, slug, invitation_id):
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    if projects.revoke_invitation(get_object_or_404(project.invitations, pk=invitation_id), actor=request.user):
        messages.success(request, _("The link no longer works."))
    return redirect("annotation:members", slug=slug)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def settings(request, slug):
    """A project's settings and what can be downloaded."""
    project, membership = project_for(request.user, slug, Role.ADMIN)
    form = forms.SettingsForm(request.POST or None, project=project)
    if request.method == "POST" and form.is_valid():
        try:
            projects.change_project(project, actor=request.user, **form.settings())
        except ValidationError as error:
            forms.add_errors(form, error)
        else:
            messages.success(request, _("The settings are saved."))
            return redirect("annotation:settings", slug=slug)
    context = {
        "project": project,
        "membership": membership,
        "tab": "settings",
        "form": form,
        "exports": list(EXPORTS),
        "has_simulated": judgments.in_use(project, simulated=True).exists(),
    }
    return render(request, "annotation/manage_settings.html", context, status=400 if form.errors else 200)


@login_required
@require_POST
def archive(request, slug):
    """Puts a project that is over away, or takes it up again."""
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    projects.set_archived(project, archived=request.POST.get("archived") == "1", actor=request.user)
    return redirect("annotation:settings", slug=slug)


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def guidelines(request, slug):
    """What annotators are asked to look for. Everybody reads it; admins change it."""
    project, membership = project_for(request.user, slug)
    may_edit = has_role(membership, Role.ADMIN)
    if request.method == "POST" and not may_edit:
        raise PermissionDenied
    guideline = projects.current_guideline(project)
    form = forms.GuidelineForm(request.POST or None, initial={"text": guideline.text if guideline else ""})
    if request.method == "POST" and form.is_valid():
        try:
            projects.set_guideline(project, created_by=request.user, **form.cleaned_data)
        except ValidationError as error:
            forms.add_errors(form, error)
        else:
            messages.success(request, _("The guideline is saved."))
            return redirect("annotation:guidelines", slug=slug)
    context = {
        "project": project,
        "membership": membership,
        "tab": "guidelines",
        "guideline": guideline,
        "guideline_html": render_markdown(guideline.text) if guideline else None,
        "has_practice": practice.practice_tasks(project).exists(),
        "form": form if may_edit else None,
    }
    return render(request, "annotation/manage_guidelines.html", context, status=400 if form.errors else 200)


@never_cache
@require_http_methods(["GET", "POST"])
@sensitive_post_parameters("password")
@sensitive_variables("token")
def invitation_accept(request, token):
    """Joins a project by its link: with the account one is signed in to, or with a new one."""
    invitation = projects.find_invitation(token)
    signed_in = request.user.is_authenticated
    form = None if signed_in else forms.JoinForm(request.POST or None)
    if invitation and request.method == "POST" and (signed_in or form.is_valid()):
        try:
            accept(request, token, form)
        except ValidationError as error:
            if form is None:
                messages.error(request, " ".join(error.messages))
            else:
                forms.add_errors(form, error)
        else:
            messages.success(request, _("Welcome to %(project)s.") % {"project": invitation.project})
            return redirect("home")
    context = {"invitation": invitation, "form": form}
    bad = 410 if invitation is None else 400 if form is not None and form.errors else 200
    return render(request, "annotation/invitation.html", context, status=bad)


def accept(request, token, form):
    if form is None:
        projects.accept_invitation(token, user=request.user)
        return
    with transaction.atomic():
        user = accounts.create_user(form.cleaned_data["username"], password=form.cleaned_data["password"])
        projects.accept_invitation(token, user=user)
    login(request, user, backend=PASSWORD_BACKEND)
