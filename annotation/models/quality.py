"""What is known of how people rank."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.membership import Membership
from annotation.models.project import Project


class SuspicionState(models.TextChoices):
    OPEN = "open", _("to be decided")
    CLEARED = "cleared", _("cleared")
    CONFIRMED = "confirmed", _("confirmed")


class Suspicion(models.Model):
    """Why a member is under quarantine, and what a reviewer decided."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="suspicions")
    # [{"check", "value", "usual", "tasks", "partner": user id or null}], as suspicion.Reading; [] if a reviewer's own
    reasons = models.JSONField(default=list)
    note = models.CharField(max_length=500, blank=True)
    state = models.CharField(max_length=16, choices=SuspicionState.choices, default=SuspicionState.OPEN)
    created_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    decided_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["membership"], condition=Q(state="open"), name="suspicion_one_open_a_member"
            )
        ]


class QualityReport(models.Model):
    """What was last computed about a project's judgments: people's, or simulated ones. A cache that may be deleted."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="quality_reports")
    simulated = models.BooleanField()
    fingerprint = models.CharField(max_length=100)  # of the judgments: when it changes, the report is out of date
    figures = models.JSONField()  # as reports.compute describes
    seconds = models.FloatField()  # what computing it took
    computed_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "simulated"], name="quality_report_once")]
