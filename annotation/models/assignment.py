"""The queue: the judgments that a task asks for, and who works on which."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from annotation.models.project import Project
from annotation.models.task import Task


class SlotState(models.TextChoices):
    OPEN = "open", _("open")
    LEASED = "leased", _("reserved")
    DONE = "done", _("done")
    CLOSED = "closed", _("closed")


class Slot(models.Model):
    """One of the `overlap` judgments that a task asks for. Claimed by one filtered UPDATE."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="slots")
    number = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=8, choices=SlotState.choices, default=SlotState.OPEN)
    # Copies of the task's columns, so that the queue is one index and no join.
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="+")
    priority = models.IntegerField(default=0)
    shuffle = models.PositiveIntegerField()  # random: neighbours in a file are not neighbours in the queue

    class Meta:
        ordering = ["task", "number"]
        constraints = [models.UniqueConstraint(fields=["task", "number"], name="slot_number_once")]
        indexes = [
            models.Index(F("project"), F("priority").desc(), F("shuffle"), name="slot_queue", condition=Q(state="open"))
        ]


class AssignmentState(models.TextChoices):
    LEASED = "leased", _("reserved")
    SUBMITTED = "submitted", _("submitted")
    EXPIRED = "expired", _("expired")
    SKIPPED = "skipped", _("skipped")
    SURPLUS = "surplus", _("kept, not counted")
    BARRED = "barred", _("never asked: a text of their own")


class Assignment(models.Model):
    """One person's claim on one slot, and the order in which the cards were shown."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    slot = models.ForeignKey(Slot, on_delete=models.CASCADE, related_name="assignments")
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="assignments")
    state = models.CharField(max_length=16, choices=AssignmentState.choices, default=AssignmentState.LEASED)
    is_repeat = models.BooleanField(default=False)
    lease_expires_at = models.DateTimeField()
    presented_order = models.JSONField()  # completion ids, one a card, as the page shows them
    skip_reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["task", "annotator"], condition=Q(is_repeat=False), name="assignment_once_a_person"
            ),
            models.UniqueConstraint(
                fields=["slot"], condition=Q(state__in=["leased", "submitted"]), name="assignment_one_counted_a_slot"
            ),
        ]
        indexes = [
            models.Index(fields=["annotator", "state"], name="assignment_by_annotator"),
            models.Index(fields=["state", "lease_expires_at"], name="assignment_by_expiry"),
        ]

    def is_expired(self, now):
        return self.state == AssignmentState.LEASED and self.lease_expires_at <= now
