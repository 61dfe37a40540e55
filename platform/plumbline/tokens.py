"""API tokens and one-time sign-in links: every write to their tables."""

import hashlib
import secrets
from datetime import timedelta

from django.utils import timezone

from plumbline.models import ApiToken, SignInLink

TOKEN_PREFIX = "plb_"  # so that secret scanners recognise a leaked one
SIGN_IN_LINK_LIFETIME = timedelta(hours=24)
LAST_USED_RESOLUTION = timedelta(minutes=1)


def digest_secret(secret):
    """sha256, without salt or stretching: the secret has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def create_token(user, *, name, project=None):
    """A new token's plain text, which is stored nowhere. project: the only one for which it works; else all."""
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    ApiToken.objects.create(user=user, name=name, project=project, digest=digest_secret(secret))
    return secret


def find_token(secret):
    """The live token with this plain text, its user along, or None. Notes the use, at most once a minute."""
    token = (
        ApiToken.objects.select_related("user")
        .filter(digest=digest_secret(secret), revoked_at=None, user__is_active=True)
        .first()
    )
    now = timezone.now()
    if token and (token.last_used_at is None or now - token.last_used_at > LAST_USED_RESOLUTION):
        ApiToken.objects.filter(id=token.id).update(last_used_at=now)
    return token


def revoke_token(user, *, token_id):
    """Whether a live token of this user was revoked."""
    return ApiToken.objects.filter(id=token_id, user=user, revoked_at=None).update(revoked_at=timezone.now()) == 1


def create_sign_in_link(user, *, lifetime=SIGN_IN_LINK_LIFETIME):
    """A new link's secret. Earlier unused links of the user stop working: only the last one printed counts."""
    now = timezone.now()
    SignInLink.objects.filter(user=user, used_at=None).update(expires_at=now)
    secret = secrets.token_urlsafe(32)
    SignInLink.objects.create(user=user, digest=digest_secret(secret), expires_at=now + lifetime)
    return secret


def find_sign_in_link(secret):
    link = SignInLink.objects.select_related("user").filter(digest=digest_secret(secret), user__is_active=True).first()
    return link if link and link.is_usable(timezone.now()) else None


def use_sign_in_link(secret):
    """The link's user, once; None when the link is unknown, used or expired."""
    link = find_sign_in_link(secret)
    if link is None:
        return None
    used = SignInLink.objects.filter(id=link.id, used_at=None).update(used_at=timezone.now())
    return link.user if used == 1 else None
