"""Judgments, their withdrawal, and what people wrote themselves."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.assignment import Assignment
from annotation.models.project import Project
from annotation.models.prompt import Pool, Prompt
from annotation.models.task import MEASURING_PURPOSES, TRAINING_PURPOSES, Purpose, Task


class Withdrawal(models.Model):
    """One person's judgments and demonstrations of a period, taken out of use together; it can be reversed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="withdrawals")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    since = models.DateTimeField(null=True, blank=True)  # none: from the beginning
    until = models.DateTimeField(null=True, blank=True)  # not included; none: up to now
    reason = models.CharField(max_length=500, blank=True)
    count = models.PositiveIntegerField()  # rankings that were in use or held back until then
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    reversed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    reversed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]


class Source(models.TextChoices):
    ANNOTATOR = "annotator", _("person")
    SIMULATED = "simulated", _("simulated")
    IMPORT = "import", _("imported")
    CHAT = "chat", _("chat")
    AI = "ai", _("AI")


class RankingQuerySet(models.QuerySet):
    def in_use(self):
        """The newest versions that count: within the overlap, neither withdrawn nor held back."""
        return self.filter(is_current=True, is_counted=True, is_held=False, withdrawn_at=None)

    def first_made_after(self, moment):
        """Those whose first version is newer: a change of an older ranking is no new one."""
        first = Ranking.objects.filter(assignment=models.OuterRef("assignment"), version=1, created_at__gt=moment)
        return self.filter(Q(version=1, created_at__gt=moment) | models.Exists(first))

    def without_settled(self):
        """Less those of tasks that a reviewer has settled: such a task speaks by the reviewer's ranking alone."""
        settled = Ranking.objects.in_use().filter(
            task__purpose=Purpose.ADJUDICATION, task__source=models.OuterRef("task_id")
        )
        return self.exclude(models.Exists(settled))

    def without_measuring(self):
        """Less those of what measures, whatever their own purpose: prompts of the eval pool, copies of such tasks."""
        return self.exclude(task__prompt__pool=Pool.EVAL).exclude(task__source__purpose__in=MEASURING_PURPOSES)

    def trainable(self):
        """What a training snapshot takes."""
        return self.in_use().filter(task__purpose__in=TRAINING_PURPOSES).without_measuring().without_settled()


class Ranking(models.Model):
    """One version of one judgment: tie groups of completion ids, best first. Rows are only ever added."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="rankings")
    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, null=True, blank=True, related_name="rankings")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="rankings"
    )
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.ANNOTATOR)
    client_id = models.CharField(max_length=64)  # made by the client: a repeated submit is one row
    body_sha256 = models.CharField(max_length=64)
    version = models.PositiveIntegerField(default=1)
    is_current = models.BooleanField(default=True)  # the newest version; the only column that an edit changes
    is_counted = models.BooleanField(default=True)  # false: surplus, kept but not one of the overlap
    is_held = models.BooleanField(default=False)  # made under quarantine: kept, not in use until a reviewer decides
    order = models.JSONField()  # [[completion id, …], …], identical completions included
    unranked = models.JSONField(default=list)
    none_acceptable = models.BooleanField(default=False)
    strength = models.PositiveSmallIntegerField(null=True, blank=True)
    ratings = models.JSONField(default=dict)  # {completion id: {"overall": 1..7, axis: 1..7}}
    flags = models.JSONField(default=dict)  # {completion id: [flag, …]}
    rationale = models.TextField(blank=True)
    note = models.TextField(blank=True)  # written before the answers were shown
    presented_order = models.JSONField()
    seconds = models.FloatField(null=True, blank=True)
    guideline_version = models.PositiveIntegerField(default=0)  # 0: the project had none
    prompt_set_version = models.PositiveIntegerField()
    weight = models.FloatField(default=1.0)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawal = models.ForeignKey(
        Withdrawal, on_delete=models.SET_NULL, null=True, blank=True, related_name="rankings"
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = RankingQuerySet.as_manager()

    class Meta:
        ordering = ["created_at"]
        constraints = [
            models.UniqueConstraint(fields=["annotator", "client_id"], name="ranking_client_id_once"),
            models.UniqueConstraint(fields=["assignment", "version"], name="ranking_version_once"),
            models.UniqueConstraint(
                fields=["assignment"], condition=Q(is_current=True), name="ranking_one_current_version"
            ),
            models.CheckConstraint(condition=Q(weight__gte=0), name="ranking_weight_not_negative"),
        ]
        indexes = [models.Index(fields=["created_at"], name="ranking_by_time")]


class Demonstration(models.Model):
    """A completion that a person wrote, for supervised fine-tuning."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="demonstrations")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="demonstrations")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="demonstrations"
    )
    message = models.JSONField()
    ranking = models.ForeignKey(Ranking, on_delete=models.SET_NULL, null=True, blank=True, related_name="rewrites")
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.ANNOTATOR)
    created_at = models.DateTimeField(auto_now_add=True)
    withdrawn_at = models.DateTimeField(null=True, blank=True)
    withdrawal = models.ForeignKey(
        Withdrawal, on_delete=models.SET_NULL, null=True, blank=True, related_name="demonstrations"
    )

    class Meta:
        ordering = ["created_at"]
