"""People's accounts: every write to the user table, and the rule that nobody signs up unasked."""

import ipaddress

from allauth.account.adapter import DefaultAccountAdapter
from django.conf import settings
from django.db import transaction
from django.utils.translation import gettext_lazy as _

from plumbline.models import User

ADMIN_USERNAME = "admin"


WRONG_PASSWORD = _("This name and password do not belong together. Type both again; capital letters count.")


class ClosedSignUpAdapter(DefaultAccountAdapter):
    error_messages = DefaultAccountAdapter.error_messages | {
        "username_password_mismatch": WRONG_PASSWORD,
        "email_password_mismatch": WRONG_PASSWORD,
        "enter_current_password": _("This is not your password until now."),
    }

    def is_open_for_signup(self, request):
        return False


def typed_login(request, credentials=None):
    """What failed attempts are counted by: the name or address as somebody typed it, whether or not it exists."""
    credentials = credentials or {}
    typed = credentials.get("username") or credentials.get("email") or (request.POST.get("login") if request else None)
    return (typed or "").strip().lower()[:255]


def client_address(request):
    """By which failed attempts are counted beside the name: the address that our proxy saw, or else the caller's own.

    A proxy is there where the public address is https; it adds what it saw at the end, behind whatever a caller claims.
    """
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "") if settings.HTTPS else ""
    try:
        return str(ipaddress.ip_address(forwarded.rsplit(",", 1)[-1].strip()))
    except ValueError:
        return request.META.get("REMOTE_ADDR")


@transaction.atomic
def create_user(username, *, email="", superuser=False, password=None):
    """A new account, without a usable password unless one is given. Raises ValidationError (name taken, malformed)."""
    user = User(username=username, email=email, is_staff=superuser, is_superuser=superuser)
    # Django takes None for "unusable".
    user.set_password(password)
    user.full_clean(exclude=["password"])
    user.save()
    return user


def ensure_admin():
    """The first admin, made if missing."""
    user = User.objects.filter(username=ADMIN_USERNAME).first()
    return user or create_user(ADMIN_USERNAME, superuser=True)
