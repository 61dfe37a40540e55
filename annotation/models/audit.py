"""Who did what."""

from django.conf import settings
from django.db import models

from annotation.models.project import Project


class AuditEvent(models.Model):
    """Who did what, and when."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, null=True, related_name="audit_events")
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    action = models.CharField(max_length=64)  # noun.verb, e.g. checkpoint.promoted
    subject = models.CharField(max_length=200, blank=True)
    detail = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-created_at"]
