"""Accounts: people, their API tokens, and one-time sign-in links. Secrets are stored as sha256 digests only."""

from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _


class User(AbstractUser):
    """A person who signs in. What they may do in a project is a membership's business, in annotation."""

    # No column: the one project for which this user acts now, by an API token that works for no other.
    acts_in_project_id = None

    class Meta:
        verbose_name = _("user")
        verbose_name_plural = _("users")


class ApiToken(models.Model):
    """A secret with which a program acts for its user. The plain token is shown once and never stored."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    # None: everything that its user may do.
    project = models.ForeignKey("annotation.Project", on_delete=models.CASCADE, null=True, related_name="+")
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at", "-id"]

    def __str__(self):
        return f"{self.name} ({self.user})"


class SignInLink(models.Model):
    """A link that signs its user in once, before it expires."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="sign_in_links")
    digest = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    def __str__(self):
        return f"sign-in link of {self.user}"

    def is_usable(self, now):
        return self.used_at is None and now < self.expires_at
