"""The HTTP API of rounds, runs and checkpoints. Reviewers read, admins write; to others it does not exist."""

from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import api_view
from rest_framework.exceptions import ValidationError
from rest_framework.response import Response

from annotation.api import read_body
from annotation.models import Role
from annotation.permissions import project_for
from plumbline.api import Conflict, refuse_unknown_parameters
from training import checkpoints, metrics, plans, rounds, runs
from training.models import Checkpoint, Run
from training.serializers import (
    CheckpointSerializer,
    MetricsSerializer,
    NewRoundSerializer,
    NewRunSerializer,
    RoundSerializer,
    RunSerializer,
)

MAX_KEY = 128
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key", str, OpenApiParameter.HEADER, description="The same key again answers with what it made before."
)


@extend_schema(request=NewRoundSerializer, responses=RoundSerializer, parameters=[IDEMPOTENCY_KEY])
@api_view(["POST"])
def start_round(request, slug):
    project, _member = project_for(request.user, slug, Role.ADMIN)
    refuse_unknown_parameters(request, ())
    values = read_body(request, NewRoundSerializer)
    try:
        round = rounds.start_round(
            project,
            created_by=request.user,
            idempotency_key=idempotency_key(request),
            overrides=values["overrides"],
        )
    except rounds.SettingsError as error:
        raise ValidationError({"overrides": [str(error)]}) from None
    except rounds.RoundError as error:
        raise Conflict(str(error)) from None
    return Response(RoundSerializer(round).data, status=status.HTTP_201_CREATED)


@extend_schema(responses=RoundSerializer)
@api_view(["GET"])
def show_round(request, slug, number):
    project, _member = project_for(request.user, slug, Role.REVIEWER)
    refuse_unknown_parameters(request, ())
    round = get_object_or_404(project.rounds.select_related("snapshot", "base_policy"), number=number)
    return Response(RoundSerializer(round).data)


@extend_schema(request=NewRunSerializer, responses=RunSerializer, parameters=[IDEMPOTENCY_KEY])
@api_view(["POST"])
def create_run(request, slug):
    project, _member = project_for(request.user, slug, Role.ADMIN)
    refuse_unknown_parameters(request, ())
    values = read_body(request, NewRunSerializer)
    plan = plans.plan_for(project)
    try:
        run, created = runs.create_run(
            project,
            stage=values["stage"],
            name=values["name"],
            config=runs.resolve_config({**plan.overrides, **runs.flattened(values["config"])}, preset=plan.preset),
            inputs=values["inputs"],
            idempotency_key=idempotency_key(request),
            created_by=request.user,
        )
    except runs.RunError as error:
        raise ValidationError({"": [str(error)]}) from None
    return Response(RunSerializer(run).data, status=status.HTTP_201_CREATED if created else status.HTTP_200_OK)


@extend_schema(responses=RunSerializer)
@api_view(["GET"])
def show_run(request, run_id):
    run = run_for(request.user, run_id, Role.REVIEWER)
    refuse_unknown_parameters(request, ())
    return Response(RunSerializer(run).data)


@extend_schema(
    responses=MetricsSerializer,
    parameters=[OpenApiParameter("after", int, description="Only steps behind this one")],
)
@api_view(["GET"])
def show_metrics(request, run_id):
    run = run_for(request.user, run_id, Role.REVIEWER)
    refuse_unknown_parameters(request, {"after"})
    body = {
        "state": run.state,
        "message": run.message,
        "step": run.step,
        "total_steps": run.total_steps,
        "metrics": metrics.series(run, after=step_parameter(request)),
    }
    return Response(MetricsSerializer(body).data)


@extend_schema(request=None, responses=RunSerializer)
@api_view(["POST"])
def cancel_run(request, run_id):
    run = run_for(request.user, run_id, Role.ADMIN)
    refuse_unknown_parameters(request, ())
    runs.request_cancel(run, actor=request.user)
    return Response(RunSerializer(run).data)


@extend_schema(responses=CheckpointSerializer(many=True))
@api_view(["GET"])
def list_checkpoints(request, slug):
    project, _member = project_for(request.user, slug, Role.REVIEWER)
    refuse_unknown_parameters(request, ())
    return Response(CheckpointSerializer(project.checkpoints.select_related("parent"), many=True).data)


@extend_schema(request=None, responses=CheckpointSerializer)
@api_view(["POST"])
def promote_checkpoint(request, checkpoint_id):
    checkpoint = get_object_or_404(Checkpoint.objects.select_related("project", "parent"), id=checkpoint_id)
    require_role(request.user, checkpoint.project, Role.ADMIN)
    refuse_unknown_parameters(request, ())
    try:
        checkpoints.promote(checkpoint, actor=request.user)
    except checkpoints.CheckpointError as error:
        raise Conflict(str(error)) from None
    return Response(CheckpointSerializer(checkpoint).data)


def run_for(user, run_id, role):
    run = get_object_or_404(Run.objects.select_related("project", "round"), id=run_id)
    require_role(user, run.project, role)
    return run


def require_role(user, project, role):
    """404 to everybody who may not even read: an id must not tell whether something exists."""
    try:
        project_for(user, project.slug, Role.REVIEWER)
    except PermissionDenied:
        raise Http404 from None
    project_for(user, project.slug, role)


def idempotency_key(request):
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > MAX_KEY:
        raise ValidationError({"Idempotency-Key": [_("has more than %(limit)d characters.") % {"limit": MAX_KEY}]})
    return key


def step_parameter(request):
    text = request.query_params.get("after", "-1")
    try:
        step = int(text) if len(text) < 12 else None
    except ValueError:
        step = None
    if step is None or not -1 <= step < 2**31:
        raise ValidationError({"after": [_("must be a step, a whole number from 0.")]})
    return step
