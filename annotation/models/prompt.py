"""Prompts, in sets as they were imported, and those that people propose."""

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from annotation.models.project import Project

POOLS = ("sft", "reward", "ppo", "eval")


class PromptSet(models.Model):
    """One imported file of prompts. The same name imported again is the next version."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompt_sets")
    name = models.CharField(max_length=200)
    version = models.PositiveIntegerField(default=1)
    file_name = models.CharField(max_length=255, blank=True)
    file_sha256 = models.CharField(max_length=64)
    counts = models.JSONField(default=dict)  # {"prompts", "dropped": {reason: n}, "pools": {pool: n}}
    active = models.BooleanField(default=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name", "version"], name="prompt_set_version_once"),
            models.UniqueConstraint(fields=["project", "file_sha256"], name="prompt_set_file_once"),
        ]

    def __str__(self):
        return f"{self.name} v{self.version}"


class Pool(models.TextChoices):
    """What a prompt may be used for, fixed when it is imported."""

    SFT = "sft", _("demonstrations")
    REWARD = "reward", _("reward model")
    PPO = "ppo", _("PPO")
    EVAL = "eval", _("evaluation")


class Prompt(models.Model):
    """A list of chat messages that a completion answers."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt_set = models.ForeignKey(PromptSet, on_delete=models.CASCADE, related_name="prompts")
    digest = models.CharField(max_length=64, db_index=True)  # sha256 of the messages' canonical JSON
    messages = models.JSONField()  # [{"role", "content": str or [typed parts]}]
    pool = models.CharField(max_length=16, choices=Pool.choices)
    group = models.CharField(max_length=200)  # prompts of a group never stand in two pools or on both sides of a split
    position = models.PositiveIntegerField()  # row in the file, from 1

    class Meta:
        ordering = ["prompt_set", "position"]
        constraints = [models.UniqueConstraint(fields=["prompt_set", "digest"], name="prompt_once_a_set")]
        indexes = [
            models.Index(fields=["prompt_set", "pool"], name="prompt_by_pool"),
            models.Index(fields=["group"], name="prompt_by_group"),
        ]

    def __str__(self):
        return self.digest[:12]


class ProposalState(models.TextChoices):
    WAITING = "waiting", _("waiting")
    ACCEPTED = "accepted", _("in use")
    DECLINED = "declined", _("not used")


class PromptProposal(models.Model):
    """A prompt that a person wrote, before and after an admin's decision. Accepted ones are copied to a prompt set."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompt_proposals")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")
    messages = models.JSONField()
    state = models.CharField(max_length=8, choices=ProposalState.choices, default=ProposalState.WAITING)
    created_at = models.DateTimeField(auto_now_add=True)
    decided_at = models.DateTimeField(null=True, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, related_name="+")

    class Meta:
        ordering = ["created_at"]
        indexes = [models.Index(fields=["project", "state"], name="prompt_proposal_by_state")]

    def __str__(self):
        return str(self.id)
