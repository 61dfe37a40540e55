"""The project, and the guidelines that its people follow."""

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

# What each number of a project may be, both ends included. Where an end is no whole number, it is a share.
BOUNDS = {
    "completions_per_task": (2, 9),
    "overlap": (1, 100),
    "lease_seconds": (10, 7 * 24 * 3600),
    "daily_goal": (1, 100_000),
    "qualification_tasks": (0, 1_000),
    "qualification_percent": (0, 100),
    # At most half: what is hidden among the real tasks must not crowd them out.
    "gold_share": (0, 0.5),
    "repeat_share": (0, 0.5),
}


def between_bounds(name):
    low, high = BOUNDS[name]
    return Q(**{f"{name}__gte": low, f"{name}__lte": high})


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
    # Set: the project is over. Nothing is asked and no round starts; all of it stays to be read.
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=between_bounds("completions_per_task"), name="project_k_from_2_to_9"),
            models.CheckConstraint(condition=Q(overlap__gte=1), name="project_overlap_at_least_1"),
            models.CheckConstraint(condition=Q(lease_seconds__gte=10), name="project_lease_at_least_10_seconds"),
            models.CheckConstraint(condition=Q(qualification_percent__lte=100), name="project_qualification_percent"),
            models.CheckConstraint(condition=between_bounds("gold_share"), name="project_gold_share"),
            models.CheckConstraint(condition=between_bounds("repeat_share"), name="project_repeat_share"),
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
