"""Tables of the training side: plans, rounds, runs and what they leave behind.

Columns, constraints and questions about one row; writes stand in the noun modules (`runs.py`, `rounds.py`, …).
"""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Plan(models.Model):
    """How a project trains: a preset of engine settings, what differs from it, and what a round queues."""

    project = models.OneToOneField("annotation.Project", on_delete=models.CASCADE, related_name="plan")
    preset = models.CharField(_("settings"), max_length=64, default="tiny")
    overrides = models.JSONField(_("settings that differ"), default=dict, blank=True)  # {"ppo.kl_coef": 0.1}
    tasks_per_round = models.PositiveIntegerField(_("new tasks after a round"), default=200)
    comparison_share = models.FloatField(_("share of blind comparisons with the old model"), default=0.3)
    auto_promote = models.BooleanField(_("promote a policy that beats the old one by itself"), default=False)
    retrain_after_rankings = models.PositiveIntegerField(
        _("start a round after this many new rankings (0: only by hand)"), default=0
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(comparison_share__gte=0, comparison_share__lte=1), name="plan_comparison_share_is_a_share"
            )
        ]


class RoundState(models.TextChoices):
    PREPARING = "preparing", _("preparing")
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")


ACTIVE_ROUND_STATES = (RoundState.PREPARING, RoundState.RUNNING)


class Round(models.Model):
    """One turn of the loop: snapshot, reward model, PPO, evaluation, generation, new tasks."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("annotation.Project", on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    state = models.CharField(max_length=16, choices=RoundState.choices, default=RoundState.PREPARING)
    message = models.TextField(blank=True)  # one sentence for people: why it failed, or what it is doing
    # Stages in order: [{"stage": "reward_model", "overrides": {...}}, ...]; artifacts are named by digest in the runs.
    recipe = models.JSONField(default=list)
    idempotency_key = models.CharField(max_length=128, blank=True)
    snapshot = models.ForeignKey("annotation.Snapshot", on_delete=models.PROTECT, null=True, related_name="+")
    base_policy = models.ForeignKey("training.Checkpoint", on_delete=models.PROTECT, null=True, related_name="+")
    result = models.JSONField(default=dict)  # figures shown when it is over
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["project", "-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="round_number_once"),
            models.UniqueConstraint(
                fields=["project"], condition=Q(state__in=["preparing", "running"]), name="round_one_active_a_project"
            ),
            models.UniqueConstraint(
                fields=["project", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="round_idempotency_key_once",
            ),
        ]

    def is_active(self):
        return self.state in ACTIVE_ROUND_STATES


class RunState(models.TextChoices):
    QUEUED = "queued", _("waiting")
    CLAIMED = "claimed", _("starting")
    RUNNING = "running", _("running")
    FINALIZING = "finalizing", _("saving")
    SUCCEEDED = "succeeded", _("succeeded")
    INTERRUPTED = "interrupted", _("interrupted")
    FAILED = "failed", _("failed")
    STOPPED_BY_GUARD = "stopped_by_guard", _("stopped by a health guard")
    CANCELLING = "cancelling", _("cancelling")
    CANCELLED = "cancelled", _("cancelled")


ENDED_RUN_STATES = (RunState.SUCCEEDED, RunState.FAILED, RunState.STOPPED_BY_GUARD, RunState.CANCELLED)
OWNED_RUN_STATES = (RunState.CLAIMED, RunState.RUNNING, RunState.FINALIZING, RunState.CANCELLING)


class Run(models.Model):
    """One supervised training or generation job. The row is the truth; a Celery message is a wake-up call."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("annotation.Project", on_delete=models.CASCADE, related_name="runs")
    round = models.ForeignKey(Round, on_delete=models.CASCADE, null=True, blank=True, related_name="runs")
    position = models.PositiveSmallIntegerField(default=0)  # stage of the round's recipe
    stage = models.CharField(max_length=32)
    name = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=20, choices=RunState.choices, default=RunState.QUEUED)
    message = models.TextField(blank=True)  # one sentence for people
    config = models.JSONField(default=dict)  # nested engine settings; resolved when the engine starts
    inputs = models.JSONField(default=dict)  # {"policy": digest, "rankings": digest, ...}: artifacts by value
    needs = models.JSONField(default=dict)  # {"devices": 1, "memory": "small"}
    idempotency_key = models.CharField(max_length=128, blank=True)

    fence = models.PositiveIntegerField(default=0)  # grows with every claim; every write carries it
    owner = models.CharField(max_length=200, blank=True)
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    attempts = models.PositiveIntegerField(default=0)
    attempts_without_progress = models.PositiveIntegerField(default=0)

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(default=0)
    summary = models.JSONField(default=dict)  # {metric name: number} of the finished event
    output_uri = models.CharField(max_length=1000, blank=True)
    output_digest = models.CharField(max_length=64, blank=True)

    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    advanced_at = models.DateTimeField(null=True, blank=True)  # last event
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "idempotency_key"], condition=~Q(idempotency_key=""), name="run_idempotency_key_once"
            ),
            models.UniqueConstraint(
                fields=["round", "position"], condition=Q(round__isnull=False), name="run_one_a_stage_of_a_round"
            ),
        ]
        indexes = [models.Index(fields=["state", "created_at"], name="run_queue")]

    def __str__(self):
        return self.name or f"{self.stage} {str(self.id)[:8]}"

    def is_ended(self):
        return self.state in ENDED_RUN_STATES


class Attempt(models.Model):
    """One start of the engine for a run, in a directory of its own."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="attempt_rows")
    number = models.PositiveIntegerField()
    fence = models.PositiveIntegerField()
    directory = models.CharField(max_length=1000)  # relative to the data directory
    pid = models.PositiveIntegerField(null=True)
    events_offset = models.PositiveBigIntegerField(default=0)  # bytes of metrics.jsonl already in the database
    resumed_from_step = models.PositiveIntegerField(default=0)
    last_step = models.PositiveIntegerField(default=0)
    exit_code = models.IntegerField(null=True)
    started_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["run", "number"]
        constraints = [models.UniqueConstraint(fields=["run", "number"], name="attempt_number_once")]


class ResumePoint(models.Model):
    """A whole resume checkpoint of a run: where the next attempt goes on."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="resume_points")
    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="resume_points")
    step = models.PositiveIntegerField()
    uri = models.CharField(max_length=1000)
    digest = models.CharField(max_length=64)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["run", "-step"]
        constraints = [models.UniqueConstraint(fields=["run", "digest"], name="resume_point_once")]


class Metric(models.Model):
    """The numbers of one step. A step that is done again after a resume replaces its row."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    values = models.JSONField()  # {name: number or null}
    time = models.DateTimeField()

    class Meta:
        ordering = ["run", "step"]
        constraints = [models.UniqueConstraint(fields=["run", "step"], name="metric_step_once")]


class RunEvent(models.Model):
    """Everything else that a run says: log lines, samples, starts and ends."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="events")
    kind = models.CharField(max_length=16)  # the event's type, see training/engine/rundir.py
    step = models.PositiveIntegerField(default=0)
    payload = models.JSONField(default=dict)
    time = models.DateTimeField()

    class Meta:
        ordering = ["run", "id"]
        indexes = [models.Index(fields=["run", "kind", "step"], name="run_event_by_kind")]


class CheckpointRole(models.TextChoices):
    SFT = "sft", _("SFT policy")
    POLICY = "policy", _("policy")
    REWARD_MODEL = "reward_model", _("reward model")


class CheckpointState(models.TextChoices):
    CANDIDATE = "candidate", _("candidate")
    VERIFIED = "verified", _("verified")
    PROMOTED = "promoted", _("promoted")
    RETIRED = "retired", _("retired")
    WITHDRAWN = "withdrawn", _("withdrawn")


class Checkpoint(models.Model):
    """One saved, verified model, named by the digest of its manifest."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("annotation.Project", on_delete=models.CASCADE, related_name="checkpoints")
    role = models.CharField(max_length=16, choices=CheckpointRole.choices)
    state = models.CharField(max_length=16, choices=CheckpointState.choices, default=CheckpointState.CANDIDATE)
    name = models.CharField(max_length=200)
    uri = models.CharField(max_length=1000)  # relative to the data directory, or with a scheme
    digest = models.CharField(max_length=64)
    size_bytes = models.PositiveBigIntegerField(default=0)
    run = models.ForeignKey(Run, on_delete=models.SET_NULL, null=True, blank=True, related_name="checkpoints")
    parent = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="children")
    figures = models.JSONField(default=dict)  # {metric name: number}
    created_at = models.DateTimeField(auto_now_add=True)
    promoted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["project", "digest"], name="checkpoint_once_a_project"),
            models.UniqueConstraint(
                fields=["project"], condition=Q(state="promoted"), name="checkpoint_one_promoted_a_project"
            ),
        ]

    def __str__(self):
        return self.name
