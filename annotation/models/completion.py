"""Answers to prompts."""

import uuid

from django.db import models

from annotation.models.prompt import Prompt


class Completion(models.Model):
    """An assistant message that answers a prompt, and who or what made it. Names its checkpoint by value."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    message = models.JSONField()  # {"role": "assistant", "content": str or [typed parts]}
    text_sha256 = models.CharField(max_length=64)  # of the parts' text: identical answers are one card
    finish_reason = models.CharField(max_length=32, default="stop")
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)
    token_ids = models.JSONField(null=True)  # as sampled: encoding the text again need not give the same
    # {"kind": checkpoint | endpoint | person | import, "digest", "model", "endpoint", "template_digest", "engine",
    #  "dtype", "sampling", "seed"}
    generator = models.JSONField()
    policy_digest = models.CharField(max_length=64, blank=True, db_index=True)  # generator.digest, for questions
    external_id = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["prompt", "policy_digest"], name="completion_by_policy")]

    def __str__(self):
        return str(self.id)
