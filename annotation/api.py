"""The HTTP API of annotation: authorise, parse, call one function of a noun module, answer."""

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.http import Http404, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, status
from rest_framework.decorators import api_view
from rest_framework.response import Response

from annotation import assignment as assignments
from annotation import completions, demonstrations, known_answers, projects, prompts, questions, rankings, snapshots
from annotation import serializers as bodies
from annotation.formats import EXPORTS
from annotation.formats.selection import JudgmentFilter
from annotation.models import Assignment, Completion, Prompt, Purpose, Role
from annotation.permissions import has_role, lacks_consent, project_for, projects_of
from plumbline.api import Conflict, StorageFull, refuse_unknown_parameters

MAX_PAGE = 1000
SIMULATED = ("include", "exclude", "only")
UPLOAD_OVERHEAD = 1024 * 1024  # bytes of an upload that are not the file

ANY_OBJECT = {200: OpenApiTypes.OBJECT}
MADE = {201: OpenApiTypes.OBJECT}
PAGING = [OpenApiParameter("limit", int), OpenApiParameter("offset", int)]


class TooLarge(exceptions.APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"


# Reading requests


def read_body(request, serializer_class, *, max_bytes=None):
    """The checked body. Raises a 400 or a 413."""
    max_bytes = max_bytes or settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > max_bytes:
        raise TooLarge(_("The body is larger than %(limit)d MB.") % {"limit": max_bytes // 2**20})
    try:
        data = request.data
    except RecursionError:
        raise exceptions.ParseError(_("The body is nested too deeply.")) from None
    if not hasattr(data, "keys"):
        raise exceptions.ParseError(_("The body must be a JSON object."))
    serializer = serializer_class(data=data)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


def read_count(request, name, default, *, high):
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 12 or int(text) > high:
        raise exceptions.ValidationError({name: [_("must be a whole number from 0 to %(high)d.") % {"high": high}]})
    return int(text)


def read_flag(request, name):
    text = request.query_params.get(name, "0")
    if text not in ("0", "1", "true", "false"):
        raise exceptions.ValidationError({name: [_("must be 1 or 0.")]})
    return text in ("1", "true")


def page_of(request, rows, make_object, allowed=()):
    """{"count", "results", "next"}: `next` is the following page's offset, or null."""
    refuse_unknown_parameters(request, ["limit", "offset", *allowed])
    limit = read_count(request, "limit", 100, high=MAX_PAGE)
    offset = read_count(request, "offset", 0, high=10**9)
    count = rows.count()
    results = [make_object(row) for row in rows[offset : offset + limit]]
    end = offset + len(results)
    return Response({"count": count, "results": results, "next": end if results and end < count else None})


def refusal(error):
    """The 400 for a noun module's error that names a field."""
    return exceptions.ValidationError({error.field or "": [error.message]})


def find_prompt(project, digest):
    found = Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True, digest=digest)
    prompt = found.select_related("prompt_set").order_by("-prompt_set__created_at").first()
    if prompt is None:
        raise exceptions.ValidationError({"prompt_digest": [_("names no prompt of this project.")]})
    return prompt


# Projects


@extend_schema(methods=["GET"], parameters=PAGING, responses=ANY_OBJECT)
@extend_schema(methods=["POST"], request=bodies.ProjectInput, responses=MADE)
@api_view(["GET", "POST"])
def project_list(request):
    """The projects that you belong to; making one is for staff."""
    if request.method == "GET":
        rows = projects_of(request.user)
        roles = dict(request.user.memberships.filter(active=True).values_list("project_id", "role"))
        return page_of(
            request, rows, lambda project: bodies.project_object(project, roles.get(project.pk, Role.ADMIN.value))
        )
    refuse_unknown_parameters(request, [])
    if not request.user.is_staff or request.user.acts_in_project_id is not None:
        raise exceptions.PermissionDenied(_("Only staff may make a project, and not with a token for one project."))
    project = projects.create_project(**read_body(request, bodies.ProjectInput), created_by=request.user)
    return Response(bodies.project_object(project, Role.ADMIN.value), status=201)


@extend_schema(methods=["GET"], responses=ANY_OBJECT)
@extend_schema(methods=["PATCH"], request=bodies.ProjectChange, responses=ANY_OBJECT)
@api_view(["GET", "PATCH"])
def project_detail(request, slug):
    """One project; admins may change it."""
    refuse_unknown_parameters(request, [])
    project, member = project_for(request.user, slug, Role.ADMIN if request.method == "PATCH" else Role.ANNOTATOR)
    if request.method == "PATCH":
        project = projects.change_project(project, actor=request.user, **read_body(request, bodies.ProjectChange))
    return Response(bodies.project_object(project, member.role))


# Prompts


@extend_schema(methods=["GET"], parameters=PAGING, responses=ANY_OBJECT)
@extend_schema(
    methods=["POST"], request={"multipart/form-data": bodies.PromptSetInput}, responses={**ANY_OBJECT, **MADE}
)
@api_view(["GET", "POST"])
def prompt_sets(request, slug):
    """Imported files of prompts. POST a file, JSONL or CSV; the same file twice is one import (200, not 201)."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    if request.method == "GET":
        return page_of(request, project.prompt_sets.order_by("name", "-version"), bodies.prompt_set_object)
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.PromptSetInput, max_bytes=prompts.MAX_FILE_BYTES + UPLOAD_OVERHEAD)
    file_name = prompts.clean_file_name(body["file"].name)
    try:
        report = prompts.import_prompts(
            project,
            name=body.get("name") or file_name.rsplit(".", 1)[0] or "prompts",
            file=body["file"],
            file_name=file_name,
            created_by=request.user,
            format=body["format"],
            pool=body["pool"] or None,
        )
    except prompts.PromptError as error:
        raise exceptions.ValidationError({error.field or "file": [str(error)]}) from None
    return Response(bodies.import_object(report), status=200 if report.already_imported else 201)


# Ranking


@extend_schema(
    request=None,
    parameters=[OpenApiParameter("ahead", bool, description="One more, to be loaded early; never a third.")],
    responses={**ANY_OBJECT, 204: None},
)
@api_view(["POST"])
def next_task(request, slug):
    """Claims a task, or gives the one that you hold. 204: nothing is waiting for you."""
    refuse_unknown_parameters(request, ["ahead"])
    project, member = project_for(request.user, slug)
    if lacks_consent(project, member):
        raise exceptions.PermissionDenied(
            _("These texts may be disturbing: agree to see them on the project's page first.")
        )
    assignment = assignments.next_assignment(project, annotator=request.user, ahead=read_flag(request, "ahead"))
    if assignment is None:
        return Response(status=204)
    shown = {str(row.pk): row for row in Completion.objects.filter(pk__in=assignment.presented_order)}
    return Response(bodies.next_object(assignment, shown))


def call_on_own(function, request, assignment_id, **fields):
    """What `function` says of the caller's own assignment; another's does not exist, a contradiction is a 409."""
    refuse_unknown_parameters(request, [])
    own = Assignment.objects.filter(pk=assignment_id, annotator=request.user)
    slug = own.values_list("task__project__slug", flat=True).first()
    # To whoever was removed from the project, nothing in it exists any more.
    project_for(request.user, slug)
    try:
        return function(Assignment(pk=assignment_id), annotator=request.user, **fields)
    except assignments.NotYours:
        raise Http404 from None
    except assignments.Conflict as error:
        raise Conflict(str(error)) from None
    except rankings.RankingError as error:
        raise refusal(error) from None
    except questions.QuestionError as error:
        raise exceptions.ValidationError({"text": [str(error)]}) from None


@extend_schema(request=bodies.RankingInput, responses=MADE)
@api_view(["POST"])
def submit(request, assignment_id):
    """Hands a ranking in. The same client_id and body again: the same answer; another body: 409. A new one: an edit."""
    body = read_body(request, bodies.RankingInput)
    order = body.pop("ranking")
    ranking, _created = call_on_own(rankings.submit_ranking, request, assignment_id, order=order, **body)
    return Response(bodies.ranking_object(ranking), status=201)


@extend_schema(request=bodies.SkipInput, responses=ANY_OBJECT)
@api_view(["POST"])
def skip(request, assignment_id):
    """Gives the task to someone else; you are not asked again."""
    body = read_body(request, bodies.SkipInput)
    assignment = call_on_own(assignments.skip, request, assignment_id, reason=body["reason"])
    return Response(bodies.assignment_object(assignment))


@extend_schema(request=bodies.QuestionInput, responses=MADE)
@api_view(["POST"])
def ask(request, assignment_id):
    """Asks the project's lead about the task; the answer stands on the project's page of questions."""
    body = read_body(request, bodies.QuestionInput)
    question = call_on_own(questions.ask_question, request, assignment_id, text=body["text"])
    return Response(bodies.question_object(question), status=201)


@extend_schema(request=None, responses=ANY_OBJECT)
@api_view(["POST"])
def heartbeat(request, assignment_id):
    """Keeps the task reserved for you a while longer."""
    read_body(request, bodies.EmptyInput)
    return Response(bodies.assignment_object(call_on_own(assignments.heartbeat, request, assignment_id)))


@extend_schema(request=bodies.ReleaseInput, responses=ANY_OBJECT)
@api_view(["POST"])
def release(request, assignment_id):
    """Gives the task back; while it is free you get it again first. With lease_expires_at: unless renewed since."""
    body = read_body(request, bodies.ReleaseInput)
    return Response(bodies.assignment_object(call_on_own(assignments.release, request, assignment_id, **body)))


# Files out


@extend_schema(
    parameters=[
        OpenApiParameter("purpose", str, many=True),
        OpenApiParameter("simulated", str, enum=SIMULATED),
    ],
    responses={(200, "application/jsonl"): OpenApiTypes.BINARY},
)
@api_view(["GET"])
def export(request, slug, format_name):
    """Streams a project's judgments in a format of docs/formats.md."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    refuse_unknown_parameters(request, ["purpose", "simulated"])
    if format_name not in EXPORTS:
        raise exceptions.NotFound(_("There is no such format. There are: %(all)s.") % {"all": ", ".join(EXPORTS)})
    write, ending, content_type = EXPORTS[format_name]
    lines = write(project, read_filter(request))
    response = StreamingHttpResponse(
        (line.encode("utf-8") for line in lines),
        content_type=content_type,
        headers={"Content-Disposition": f'attachment; filename="{project.slug}-{format_name}.{ending}"'},
    )
    response["Cache-Control"] = "no-store"
    return response


def read_filter(request):
    purposes = tuple(request.query_params.getlist("purpose"))
    unknown = [purpose for purpose in purposes if purpose not in Purpose.values]
    if unknown:
        raise exceptions.ValidationError(
            {"purpose": [_("must be one of: %(all)s.") % {"all": ", ".join(Purpose.values)}]}
        )
    simulated = request.query_params.get("simulated", "include")
    if simulated not in SIMULATED:
        raise exceptions.ValidationError({"simulated": [_("must be one of: %(all)s.") % {"all": ", ".join(SIMULATED)}]})
    return JudgmentFilter(purposes=purposes or None, simulated=simulated)


@extend_schema(methods=["GET"], parameters=PAGING, responses=ANY_OBJECT)
@extend_schema(methods=["POST"], request=bodies.SnapshotInput, responses=MADE)
@api_view(["GET", "POST"])
def snapshot_list(request, slug):
    """Frozen data sets."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    if request.method == "GET":
        return page_of(request, project.snapshots.order_by("-number"), bodies.snapshot_object)
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.SnapshotInput)
    try:
        snapshot = snapshots.freeze(project, created_by=request.user, **body)
    except snapshots.StorageError as error:
        raise StorageFull(str(error)) from None
    except snapshots.SnapshotError as error:
        raise exceptions.ValidationError({"purposes": [str(error)]}) from None
    return Response(bodies.snapshot_object(snapshot), status=201)


# Completions, tasks, demonstrations, members


@extend_schema(request=bodies.CompletionsInput, responses=MADE)
@api_view(["POST"])
def completion_list(request, slug):
    """Adds answers to prompts of the project; all or none."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    refuse_unknown_parameters(request, [])
    rows = read_body(request, bodies.CompletionsInput)["completions"]
    try:
        made = completions.add_completions(project, rows=rows)
    except completions.CompletionError as error:
        raise exceptions.ValidationError({f"completions.{error.row - 1}.{error.field}": [error.message]}) from None
    return Response({"completions": [bodies.completion_object(completion) for completion in made]}, status=201)


@extend_schema(methods=["GET"], parameters=[*PAGING, OpenApiParameter("batch", str)], responses=ANY_OBJECT)
@extend_schema(methods=["POST"], request=bodies.TaskInput, responses={**ANY_OBJECT, **MADE})
@api_view(["GET", "POST"])
def task_list(request, slug):
    """Tasks in the queue. POST makes one of completions that exist; 200 with task null when all are identical."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    if request.method == "GET":
        rows = project.tasks.select_related("prompt").prefetch_related("entries", "slots")
        if "batch" in request.query_params:
            rows = rows.filter(batch=request.query_params["batch"].replace("\x00", "")[:64])
        return page_of(request, rows.order_by("-created_at", "pk"), bodies.task_object, allowed=["batch"])
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.TaskInput)
    wanted = body.pop("completions")
    chosen = find_completions(project, wanted)
    digest = body.pop("prompt_digest", None)
    prompt = chosen[0].prompt
    if digest is not None and digest != prompt.digest:
        raise exceptions.ValidationError({"prompt_digest": [_("is not the prompt that these answers answer.")]})
    known = {key: body.pop(key) for key in ("known_answer", "explanation") if key in body}
    try:
        task = queue_task(project, prompt, chosen, body, known, request.user)
    except assignments.TaskError as error:
        raise refusal(error) from None
    if task is None:
        return Response({"task": None, "reason": _("All answers are identical: there is nothing to rank.")})
    return Response(bodies.task_object(task), status=201)


@transaction.atomic
def queue_task(project, prompt, chosen, body, known, actor):
    """The new task, with its known answer where one is given."""
    task = assignments.queue_task(project, prompt=prompt, completions=chosen, **body)
    if task is not None and "known_answer" in known:
        known_answers.set_known_answer(
            task, order=known["known_answer"], explanation=known.get("explanation", ""), actor=actor
        )
    return task


def find_completions(project, ids):
    found = Completion.objects.select_related("prompt__prompt_set").filter(prompt__prompt_set__project=project)
    by_id = {completion.pk: completion for completion in found.filter(pk__in=ids)}
    missing = [str(pk) for pk in ids if pk not in by_id]
    if missing:
        raise exceptions.ValidationError(
            {"completions": [_("%(id)s is not an answer in this project.") % {"id": missing[0]}]}
        )
    return [by_id[pk] for pk in ids]


@extend_schema(methods=["GET"], parameters=PAGING, responses=ANY_OBJECT)
@extend_schema(methods=["POST"], request=bodies.DemonstrationInput, responses=MADE)
@api_view(["GET", "POST"])
def demonstration_list(request, slug):
    """Answers that people wrote. Anyone in the project may add one; admins read them."""
    project, _member = project_for(request.user, slug, Role.ADMIN if request.method == "GET" else Role.ANNOTATOR)
    if request.method == "GET":
        rows = project.demonstrations.select_related("prompt").order_by("-created_at")
        return page_of(request, rows, bodies.demonstration_object)
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.DemonstrationInput)
    ranking = find_own_ranking(request.user, project, body["ranking"]) if "ranking" in body else None
    prompt = ranking.task.prompt if ranking else find_prompt(project, body["prompt_digest"])
    demonstration = demonstrations.add_demonstration(
        project, prompt=prompt, author=request.user, message=body["message"], ranking=ranking
    )
    return Response(bodies.demonstration_object(demonstration), status=201)


@extend_schema(request=None, responses=ANY_OBJECT)
@api_view(["POST"])
def demonstration_withdraw(request, slug, demonstration_id):
    """Takes an answer that somebody wrote out of training; it stays in the list. For reviewers and its author."""
    project, member = project_for(request.user, slug)
    refuse_unknown_parameters(request, [])
    read_body(request, bodies.EmptyInput)
    rows = project.demonstrations.select_related("prompt", "project")
    if not has_role(member, Role.REVIEWER):
        rows = rows.filter(author=request.user)
    demonstration = get_object_or_404(rows, pk=demonstration_id)
    demonstrations.withdraw_demonstration(demonstration, actor=request.user)
    demonstration.refresh_from_db(fields=["withdrawn_at"])
    return Response(bodies.demonstration_object(demonstration))


def find_own_ranking(user, project, ranking_id):
    rows = user.rankings.select_related("task__prompt__prompt_set").filter(task__project=project)
    ranking = rows.filter(pk=ranking_id).first()
    if ranking is None:
        raise exceptions.ValidationError({"ranking": [_("names no ranking of yours in this project.")]})
    return ranking


@extend_schema(methods=["GET"], parameters=PAGING, responses=ANY_OBJECT)
@extend_schema(methods=["POST"], request=bodies.MemberInput, responses=MADE)
@api_view(["GET", "POST"])
def member_list(request, slug):
    """Who belongs to the project, and as what."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    if request.method == "GET":
        return page_of(request, project.memberships.select_related("user"), bodies.member_object)
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.MemberInput)
    user = get_user_model().objects.filter(username=body.pop("username"), is_active=True).first()
    if user is None:
        raise exceptions.ValidationError({"username": [_("There is no account of this name.")]})
    member = projects.add_member(project, user, actor=request.user, **body)
    return Response(bodies.member_object(member), status=201)


@extend_schema(request=bodies.MemberChange, responses=ANY_OBJECT)
@api_view(["PATCH"])
def member_detail(request, slug, username):
    """Changes a member's role, or ends or renews the membership."""
    project, _member = project_for(request.user, slug, Role.ADMIN)
    refuse_unknown_parameters(request, [])
    body = read_body(request, bodies.MemberChange)
    # PostgreSQL takes no NUL, not even to compare it.
    member = project.memberships.filter(user__username=username.replace("\x00", "")).first()
    if member is None:
        raise Http404
    return Response(bodies.member_object(projects.change_member(member, actor=request.user, **body)))
