"""What is asked, and its known answer where it has one."""

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from annotation.models.completion import Completion
from annotation.models.project import Project
from annotation.models.prompt import Prompt


class Purpose(models.TextChoices):
    """Why a task is asked. Judgments of purpose eval or gold never enter a training snapshot."""

    TRAIN = "train", _("training")
    EVAL = "eval", _("blind comparison")
    GOLD = "gold", _("known answer")
    PRACTICE = "practice", _("practice")
    REPEAT = "repeat", _("repeat")
    ADJUDICATION = "adjudication", _("adjudication")


# What may train. Judgments of purpose eval and gold measure, practice is not meant, and a repeat would count double.
TRAINING_PURPOSES = (Purpose.TRAIN, Purpose.ADJUDICATION)
MEASURING_PURPOSES = (Purpose.EVAL, Purpose.GOLD)


class Task(models.Model):
    """One prompt and the completions to be ranked."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tasks")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="tasks")
    completions = models.ManyToManyField(Completion, through="TaskCompletion", related_name="tasks")
    purpose = models.CharField(max_length=16, choices=Purpose.choices, default=Purpose.TRAIN)
    priority = models.IntegerField(default=0)  # higher comes first
    overlap = models.PositiveSmallIntegerField(default=1)
    reason = models.CharField(max_length=200, blank=True)  # why it was queued, e.g. "round 2"
    propensity = models.FloatField(default=1.0)  # chance with which the sampler of tasks chose it
    batch = models.CharField(max_length=64, blank=True, db_index=True)  # names what queued it, e.g. a round, by value
    # The task whose answers this one asks about again: of a repeat, an adjudication, a known answer made from a task.
    source = models.ForeignKey("self", on_delete=models.CASCADE, null=True, blank=True, related_name="asked_again")
    created_at = models.DateTimeField(auto_now_add=True)
    closed_at = models.DateTimeField(null=True, blank=True)  # withdrawn from the queue

    class Meta:
        ordering = ["-priority", "created_at"]
        constraints = [
            models.CheckConstraint(condition=Q(overlap__gte=1), name="task_overlap_at_least_1"),
            models.CheckConstraint(
                condition=Q(propensity__gt=0, propensity__lte=1), name="task_propensity_is_a_probability"
            ),
        ]
        indexes = [models.Index(fields=["project", "purpose"], name="task_by_purpose")]

    def __str__(self):
        return str(self.id)


class TaskCompletion(models.Model):
    """A completion's place in a task. Completions of one card are identical and shown once."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="entries")
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="entries")
    position = models.PositiveSmallIntegerField()
    card = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ["task", "position"]
        constraints = [
            models.UniqueConstraint(fields=["task", "completion"], name="task_completion_once"),
            models.UniqueConstraint(fields=["task", "position"], name="task_position_once"),
        ]


class KnownAnswer(models.Model):
    """What the order of a gold task should be. It never reaches an annotator's page and never trains."""

    task = models.OneToOneField(Task, on_delete=models.CASCADE, related_name="known_answer")
    order = models.JSONField()  # [[completion id, …], …], best first, as in a ranking
    explanation = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)  # or last changed
