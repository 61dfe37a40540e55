"""The project, and the guidelines that its people follow."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _


class Project(models.Model):
    """A set of people, prompts and a policy that is being improved."""

    slug = models.SlugField(_("short name"), max_length=64, unique=True)
    name = models.CharField(_("name"), max_length=200)
    description = models.TextField(_("description"), blank=True)
    completions_per_task = models.PositiveSmallIntegerField(_("answers per task"), default=4)
    overlap = models.PositiveSmallIntegerField(_("people per task"), default=1)
    lease_seconds = models.PositiveIntegerField(_("seconds a task stays reserved"), default=900)
    daily_goal = models.PositiveIntegerField(_("tasks a person is asked to do a day"), default=60)
    # What the pages ask beside the order, where it departs from the defaults: ranking_form.py names the keys.
    ranking_form = models.JSONField(_("questions beside the order"), default=dict, blank=True)
    gold_share = models.FloatField(
        _("share of hidden checks"), default=0.1
    )  # of tasks with a known answer, where any is
    repeat_share = models.FloatField(_("share of repeats"), default=0.05)  # of one's own tasks asked again
    qualification_tasks = models.PositiveSmallIntegerField(_("test tasks before real work"), default=0)  # 0: no test
    qualification_percent = models.PositiveSmallIntegerField(_("pairs to agree on in the test"), default=70)
    weigh_annotators = models.BooleanField(_("weigh rankings by reliability"), default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(completions_per_task__gte=2, completions_per_task__lte=9), name="project_k_from_2_to_9"
            ),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="project_overlap_at_least_1"),
            models.CheckConstraint(condition=Q(lease_seconds__gte=10), name="project_lease_at_least_10_seconds"),
            models.CheckConstraint(condition=Q(qualification_percent__lte=100), name="project_qualification_percent"),
            # At most half: what is hidden among the real tasks must not crowd them out.
            models.CheckConstraint(condition=Q(gold_share__gte=0, gold_share__lte=0.5), name="project_gold_share"),
            models.CheckConstraint(
                condition=Q(repeat_share__gte=0, repeat_share__lte=0.5), name="project_repeat_share"
            ),
        ]

    def __str__(self):
        return self.name


class Guideline(models.Model):
    """What annotators are asked to look for. A change is a new version."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines")
    version = models.PositiveIntegerField()
    text = models.TextField()
    requalify = models.BooleanField(default=False)  # whoever passed the test before this version takes it again
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["project", "-version"]
        constraints = [models.UniqueConstraint(fields=["project", "version"], name="guideline_version_once")]

    def __str__(self):
        return f"{self.project} v{self.version}"
