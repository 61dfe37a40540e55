"""Who belongs to a project, who is invited, and who passed its test."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.project import Project


class Role(models.TextChoices):
    ANNOTATOR = "annotator", _("annotator")
    REVIEWER = "reviewer", _("reviewer")
    ADMIN = "admin", _("admin")


class Membership(models.Model):
    """What one person may do in one project, and the name by which files know this person."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.ANNOTATOR)
    pseudonym = models.CharField(max_length=32)
    simulated = models.BooleanField(default=False)  # its rankings are marked, and never mixed with people's
    active = models.BooleanField(default=True)
    quarantined_at = models.DateTimeField(null=True, blank=True)  # since then, new rankings are held back
    consented_at = models.DateTimeField(null=True, blank=True)  # to texts that may be disturbing
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.UniqueConstraint(fields=["project", "user"], name="membership_once_a_person"),
            models.UniqueConstraint(fields=["project", "pseudonym"], name="membership_pseudonym_once"),
        ]

    def __str__(self):
        return f"{self.user} ({self.role})"


class Invitation(models.Model):
    """A link by which one person joins; only its sha256 is kept."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.ANNOTATOR)
    digest = models.CharField(max_length=64, unique=True)
    note = models.CharField(max_length=200, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    accepted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )
    accepted_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self):
        return f"{self.project} ({self.role})"

    def is_open(self, now):
        return self.accepted_at is None and self.revoked_at is None and now < self.expires_at


class Qualification(models.Model):
    """How one person did in a project's test."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="qualifications")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    guideline_version = models.PositiveIntegerField()
    tasks = models.PositiveSmallIntegerField()
    agreement = models.FloatField()  # share of pairs ordered as the known answers order them, in [0, 1]
    passed = models.BooleanField()
    created_at = models.DateTimeField(auto_now_add=True)
    void_at = models.DateTimeField(null=True, blank=True)  # the lead lets this person try again

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "user", "guideline_version"],
                condition=Q(void_at=None),
                name="qualification_once_a_version",
            )
        ]

    @property
    def percent(self):
        return round(100 * self.agreement)
