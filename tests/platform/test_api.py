"""The API's one error shape, bearer tokens, and the refusal of unknown parameters."""

import pytest
from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404
from django.test import RequestFactory
from rest_framework import exceptions
from rest_framework.decorators import api_view
from rest_framework.request import Request
from rest_framework.response import Response

from plumbline import api, tokens


@api_view(["GET", "POST"])
def whoami(request):
    return Response({"user": request.user.username})


def call(view, **headers):
    return view(RequestFactory().get("/api/v1/whoami/", headers=headers)).render()


@pytest.mark.django_db
def test_it_knows_the_bearer_of_a_token(outsider):
    response = call(whoami, Authorization=f"Bearer {tokens.create_token(outsider, name='x')}")
    assert response.data == {"user": "outsider"}


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["", "Bearer", "Bearer a b", "Bearer plb_made_up", "Basic eDp5"])
def test_it_answers_401_in_the_error_shape_to_a_stranger(header):
    response = call(whoami, **({"Authorization": header} if header else {}))
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert set(response.data) == {"error"}
    assert set(response.data["error"]) == {"code", "message", "fields"}


@pytest.mark.django_db
def test_it_refuses_the_token_of_a_closed_account(outsider):
    secret = tokens.create_token(outsider, name="x")
    outsider.is_active = False
    outsider.save()
    assert call(whoami, Authorization=f"Bearer {secret}").status_code == 401


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Http404(), 404, "not_found"),
        (PermissionDenied(), 403, "permission_denied"),
        (api.Conflict("Another body was sent under this client id."), 409, "conflict"),
        (exceptions.Throttled(wait=3), 429, "throttled"),
        (exceptions.ParseError(), 400, "parse_error"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (DjangoValidationError("Too long."), 400, "invalid"),
    ],
)
def test_it_gives_every_error_the_same_shape(error, status, code):
    response = api.exception_handler(error, {})
    assert response.status_code == status
    assert response.data["error"]["code"] == code
    assert response.data["error"]["message"]


def test_it_names_fields_by_their_path():
    detail = {"order": [{}, {"id": ["Unknown."]}], "name": ["Required."], "non_field_errors": ["Odd."]}
    fields = api.exception_handler(exceptions.ValidationError(detail), {}).data["error"]["fields"]
    assert fields == {"order.1.id": ["Unknown."], "name": ["Required."], "": ["Odd."]}


def test_it_says_when_to_try_again():
    assert api.exception_handler(exceptions.Throttled(wait=3), {}).headers["Retry-After"] == "3"


def test_it_leaves_a_bug_to_django():
    assert api.exception_handler(KeyError("x"), {}) is None


def test_it_refuses_an_unknown_parameter():
    request = Request(RequestFactory().get("/x/?after=1&user__password__startswith=a"))
    with pytest.raises(exceptions.ValidationError) as raised:
        api.refuse_unknown_parameters(request, {"after"})
    assert set(raised.value.detail) == {"user__password__startswith"}
    api.refuse_unknown_parameters(request, {"after", "user__password__startswith"})


@pytest.mark.django_db
def test_it_answers_an_unknown_api_address_in_json(client):
    response = client.get("/api/v1/nowhere/")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.django_db
def test_it_answers_an_unknown_page_with_a_page(client):
    response = client.get("/nowhere/")
    assert response.status_code == 404
    assert b"There is nothing at this address" in response.content


@pytest.mark.django_db
def test_it_describes_itself_without_warnings(api_for, outsider):
    response = api_for(outsider).get("/api/v1/schema/?format=json")
    assert response.status_code == 200
    assert response.json()["components"]["securitySchemes"]["bearer"] == {"type": "http", "scheme": "bearer"}
