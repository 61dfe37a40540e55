"""Pages for writing: an answer to a prompt, for the model to learn from, and prompts that an admin may take up."""

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from annotation import demonstrations, forms, projects, proposals
from annotation.models import Prompt, ProposalState, Role
from annotation.permissions import lacks_consent, project_for
from annotation.prompts import PromptError
from annotation.ranking_form import form_of
from annotation.rendering import message_text, render_markdown, render_message
from annotation.views import parse_uuid

SHOWN_PROPOSALS = 50


def writing_project(request, slug, kind):
    """(Project, Membership, its form) where people are asked to write answers, or prompts; 404 elsewhere."""
    project, membership = project_for(request.user, slug)
    form = form_of(project)
    if not form[kind]:
        raise Http404
    if lacks_consent(project, membership):
        raise PermissionDenied(_("Say first, on the page “Rank”, whether you want to see these texts."))
    return project, membership, form


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def write_answer(request, slug):
    """A prompt, and a box for the answer that the model should give. ?after=DIGEST asks for another prompt."""
    project, membership, asks = writing_project(request, slug, "write_answers")
    form = forms.AnswerForm(request.POST or None)
    if request.method == "POST":
        prompts = Prompt.objects.filter(prompt_set__project=project).select_related("prompt_set")
        prompt = get_object_or_404(prompts, pk=parse_uuid(request.POST, "prompt"))
        if form.is_valid() and add_answer(project, prompt, request.user, form):
            messages.success(request, _("Your answer is saved. Thank you."))
            return redirect("annotation:write_answer", slug=slug)
    else:
        prompt = demonstrations.next_prompt(
            project, author=request.user, after=request.GET.get("after", "").replace("\x00", "")
        )
    guideline = projects.current_guideline(project)
    context = {
        "project": project,
        "membership": membership,
        "tab": "write",
        "asks": asks,
        "form": form,
        "prompt": prompt,
        "turns": [render_message(message) for message in prompt.messages] if prompt else [],
        "guideline": render_markdown(guideline.text) if guideline else None,
    }
    return render(request, "annotation/write_answer.html", context, status=400 if form.errors else 200)


def add_answer(project, prompt, author, form):
    """Whether the answer is stored; if not, the form says why."""
    message = {"role": "assistant", "content": form.cleaned_data["text"]}
    try:
        demonstrations.add_demonstration(project, prompt=prompt, author=author, message=message)
    except ValidationError as error:
        form.add_error("text", error.messages)
    return not form.errors


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def write_prompt(request, slug):
    """A box for a new prompt, and what became of one's own."""
    project, membership, asks = writing_project(request, slug, "write_prompts")
    form = forms.ProposalForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            proposals.propose_prompt(project, author=request.user, text=form.cleaned_data["text"])
        except ValidationError as error:
            forms.add_errors(form, error)
        else:
            messages.success(request, _("Your prompt is on its way to the project’s admins. Thank you."))
            return redirect("annotation:write_prompt", slug=slug)
    own = project.prompt_proposals.filter(author=request.user).order_by("-created_at")[:SHOWN_PROPOSALS]
    context = {
        "project": project,
        "membership": membership,
        "tab": "write",
        "asks": asks,
        "form": form,
        "own": [{"proposal": row, "text": message_text(row.messages[-1])} for row in own],
    }
    return render(request, "annotation/write_prompt.html", context, status=400 if form.errors else 200)


@never_cache
@login_required
@require_http_methods(["GET"])
def proposed(request, slug):
    """The prompts that people proposed and nobody has decided about."""
    project, membership = project_for(request.user, slug, Role.ADMIN)
    waiting = project.prompt_proposals.filter(state=ProposalState.WAITING).select_related("author")
    rows = waiting.order_by("created_at")
    context = {
        "project": project,
        "membership": membership,
        "tab": "prompts",
        "form": forms.PoolForm(),
        "rows": [{"proposal": row, **render_message(row.messages[-1])} for row in rows[:SHOWN_PROPOSALS]],
        "waiting": rows.count(),
    }
    return render(request, "annotation/proposed.html", context)


@login_required
@require_POST
def decide(request, slug):
    """Takes the marked proposals into the project's prompts, or declines them."""
    project, _membership = project_for(request.user, slug, Role.ADMIN)
    form = forms.DecisionForm(request.POST)
    if form.is_valid():
        chosen = form.cleaned_data
        accept = chosen["decision"] == "accept"
        try:
            count = proposals.decide_proposals(
                project, chosen["proposals"], accept=accept, actor=request.user, pool=chosen["pool"] or None
            )
        except PromptError as error:
            messages.error(request, str(error))
        else:
            sentence = _("Taken into the prompts: %(count)d.") if accept else _("Declined: %(count)d.")
            messages.success(request, sentence % {"count": count})
    else:
        messages.error(request, _("Mark the prompts that you decide about."))
    return redirect("annotation:proposed", slug=slug)
