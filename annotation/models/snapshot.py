"""Frozen data sets."""

import uuid

from django.conf import settings
from django.db import models

from annotation.models.project import Project


class Snapshot(models.Model):
    """A frozen data set: a directory of JSONL files with a manifest."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="snapshots")
    number = models.PositiveIntegerField()
    uri = models.CharField(max_length=1000)  # relative to the data directory, or with a scheme
    digest = models.CharField(max_length=64)  # sha256 of the manifest's canonical JSON
    counts = models.JSONField(default=dict)
    filters = models.JSONField(default=dict)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "-number"]
        constraints = [models.UniqueConstraint(fields=["project", "number"], name="snapshot_number_once")]

    def __str__(self):
        return f"{self.project} snapshot {self.number}"
