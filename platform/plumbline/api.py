"""What every API call shares: bearer tokens, the one error shape, and the refusal of unknown parameters."""

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404, JsonResponse
from django.utils.translation import gettext as _
from rest_framework import exceptions, status
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.response import Response

from plumbline import tokens


class TokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer <token>`."""

    keyword = "Bearer"

    def authenticate(self, request):
        parts = get_authorization_header(request).split()
        if not parts or parts[0].lower() != self.keyword.lower().encode():
            return None
        if len(parts) != 2:
            raise exceptions.AuthenticationFailed(_("The Authorization header must read: Bearer TOKEN."))
        token = tokens.find_token(parts[1].decode("latin-1"))
        if token is None:
            raise exceptions.AuthenticationFailed(_("This API token is unknown or was revoked."))
        token.user.acts_in_project_id = token.project_id
        return token.user, token

    def authenticate_header(self, request):
        return self.keyword


class Conflict(exceptions.APIException):
    """409: the call contradicts what is already stored."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class StorageFull(exceptions.APIException):
    """507: what was asked for cannot be written."""

    status_code = status.HTTP_507_INSUFFICIENT_STORAGE
    default_code = "storage_full"


def error_body(code, message, fields=None):
    fields = {encodable(name): [encodable(text) for text in texts] for name, texts in (fields or {}).items()}
    return {"error": {"code": code, "message": encodable(message), "fields": fields}}


def encodable(text):
    """Half of a surrogate pair, quoted from the request, would make the answer impossible to encode."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def error_response(code, message, *, status, fields=None):
    """The error shape outside the REST framework, such as for an unknown address."""
    return JsonResponse(error_body(code, message, fields), status=status)


def exception_handler(error, context):
    """Every error of the API as {"error": {"code", "message", "fields"}}; None leaves it to Django (a 500)."""
    error = as_api_exception(error)
    if error is None:
        return None
    headers = {}
    if getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = error.auth_header
    if getattr(error, "wait", None):
        headers["Retry-After"] = str(int(error.wait))
    if isinstance(error, exceptions.ValidationError):
        fields = flatten_fields(error.detail)
        body = error_body("invalid", validation_message(fields), fields)
    else:
        code = getattr(error.detail, "code", None) or error.default_code
        body = error_body(code, error.detail)
    return Response(body, status=error.status_code, headers=headers)


def as_api_exception(error):
    if isinstance(error, exceptions.APIException):
        return error
    if isinstance(error, Http404):
        return exceptions.NotFound()
    if isinstance(error, PermissionDenied):
        return exceptions.PermissionDenied()
    if isinstance(error, DjangoValidationError):
        return exceptions.ValidationError(error.message_dict if hasattr(error, "error_dict") else error.messages)
    return None


def flatten_fields(detail, path=""):
    """{"a": {"b": ["x"]}} -> {"a.b": ["x"]}; errors of no field in particular stand under "" (the whole body)."""
    if isinstance(detail, dict):
        flat = {}
        for key, value in detail.items():
            name = "" if key == "non_field_errors" else str(key)
            flat.update(flatten_fields(value, ".".join(part for part in (path, name) if part)))
        return flat
    if isinstance(detail, list):
        if all(isinstance(item, str) for item in detail):
            return {path: [str(item) for item in detail]}
        flat = {}
        for index, item in enumerate(detail):
            flat.update(flatten_fields(item, f"{path}.{index}" if path else str(index)))
        return flat
    return {path: [str(detail)]}


def validation_message(fields):
    field, messages = next(((name, texts) for name, texts in fields.items() if texts), ("", [_("Invalid input.")]))
    return f"{field}: {messages[0]}" if field else messages[0]


def refuse_unknown_parameters(request, allowed):
    """Raises a 400 that names each query parameter outside `allowed`, instead of ignoring a filter silently."""
    unknown = sorted(set(request.query_params) - set(allowed))
    if unknown:
        known = ", ".join(sorted(allowed)) or _("none")
        raise exceptions.ValidationError(
            {
                name: [_("This query parameter is not known. Known here: %(known)s.") % {"known": known}]
                for name in unknown
            }
        )
