"""Questions about a task."""

import uuid

from django.conf import settings
from django.db import models

from annotation.models.assignment import Assignment
from annotation.models.project import Project


class Question(models.Model):
    """What somebody who ranks asks the project's lead about one task, and the answer, which both see."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="questions")
    assignment = models.ForeignKey(Assignment, on_delete=models.CASCADE, related_name="questions")
    asked_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="questions")
    text = models.TextField()
    asked_at = models.DateTimeField(auto_now_add=True)
    answer = models.TextField(blank=True)
    answered_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    answered_at = models.DateTimeField(null=True)
    answer_seen_at = models.DateTimeField(null=True)  # by the one who asked

    class Meta:
        ordering = ["-asked_at"]
        indexes = [models.Index(fields=["project", "answered_at"], name="question_by_answer")]
