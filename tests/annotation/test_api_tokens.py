"""What a token for one project may not do elsewhere, how fast an account may call, and filters that nobody knows."""

import re

import pytest
from django.urls import get_resolver

from annotation import assignment, projects
from annotation.models import Ranking
from plumbline import throttle, tokens

pytestmark = pytest.mark.django_db


@pytest.fixture
def other_project(admin):
    return projects.create_project(name="Elsewhere", created_by=admin)


@pytest.fixture
def scoped(admin, project, api_for):
    """An admin of two projects, with a token for one of them."""
    client = api_for(None)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens.create_token(admin, name='x', project=project)}")
    return client


def test_a_token_for_one_project_works_there(scoped, project, other_project):
    assert scoped.get(f"/api/v1/projects/{project.slug}/").status_code == 200
    listed = scoped.get("/api/v1/projects/").data["results"]
    assert [one["slug"] for one in listed] == [project.slug]


@pytest.mark.parametrize("path", ["", "members/", "tasks/", "export/native/", "snapshots/", "checkpoints/"])
def test_a_token_for_one_project_finds_no_other(scoped, other_project, path):
    assert scoped.get(f"/api/v1/projects/{other_project.slug}/{path}").status_code == 404


def test_a_token_for_one_project_reaches_no_assignment_of_another(scoped, admin, project, other_project, task, api_for):
    lease = assignment.next_assignment(project, annotator=admin)
    path = f"/api/v1/assignments/{lease.pk}/heartbeat/"
    assert scoped.post(path).status_code == 200
    elsewhere = api_for(None)
    secret = tokens.create_token(admin, name="x", project=other_project)
    elsewhere.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    assert elsewhere.post(path).status_code == 404
    assert elsewhere.post(f"/api/v1/projects/{project.slug}/next/").status_code == 404


def test_a_removed_member_reaches_no_assignment_any_more(project, annotator, admin, task, api_for):
    lease = assignment.next_assignment(project, annotator=annotator)
    client = api_for(annotator)
    assert client.post(f"/api/v1/assignments/{lease.pk}/heartbeat/").status_code == 200
    projects.change_member(annotator.memberships.get(), actor=admin, active=False)
    body = {"client_id": "1", "ranking": [[key] for key in lease.presented_order]}
    calls = {"heartbeat": {}, "ranking": body, "skip": {}, "release": {}, "question": {"text": "Why?"}}
    for call, sent in calls.items():
        assert client.post(f"/api/v1/assignments/{lease.pk}/{call}/", sent, format="json").status_code == 404, call
    assert not Ranking.objects.exists()


def test_a_token_for_one_project_makes_none(project, make_user, api_for):
    staff = make_user("staff", is_superuser=True, is_staff=True)
    client = api_for(None)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens.create_token(staff, name='x', project=project)}")
    assert client.post("/api/v1/projects/", {"name": "New"}).status_code == 403
    assert client.get(f"/api/v1/projects/{project.slug}/").status_code == 200


def test_a_token_is_made_for_a_project_of_ones_own(client_for, annotator, project, other_project):
    client = client_for(annotator)
    assert client.post("/account/tokens/", {"name": "x", "project": other_project.pk}).status_code == 400
    made = client.post("/account/tokens/", {"name": "x", "project": project.pk})
    assert tokens.find_token(made.context["new_token"]).project == project
    assert "Stories" in made.content.decode()


class TestThrottle:
    @pytest.fixture(autouse=True)
    def fresh(self):
        throttle._buckets.clear()
        yield
        throttle._buckets.clear()

    def test_it_lets_a_burst_through_and_then_the_steady_rate(self):
        # 2 a second: 20 at once, then none, then one each half second.
        assert [throttle.take(1, rate=2, now=0.0) for _call in range(20)] == [0] * 20
        assert throttle.take(1, rate=2, now=0.0) == 0.5
        assert throttle.take(1, rate=2, now=0.25) == pytest.approx(0.25)
        assert throttle.take(1, rate=2, now=0.5) == 0
        assert throttle.take(1, rate=2, now=0.5) == 0.5
        assert throttle.take(2, rate=2, now=0.5) == 0

    def test_it_answers_429_and_says_when(self, api_for, annotator, project, settings):
        settings.API_CALLS_PER_SECOND = 1
        client = api_for(annotator)
        answers = [client.get(f"/api/v1/projects/{project.slug}/") for _call in range(11)]
        assert [answer.status_code for answer in answers] == [200] * 10 + [429]
        assert answers[-1].headers["Retry-After"] == "1"
        assert answers[-1].data["error"]["code"] == "throttled"

    def test_it_can_be_switched_off(self, api_for, annotator, project, settings):
        settings.API_CALLS_PER_SECOND = 0
        client = api_for(annotator)
        assert {client.get(f"/api/v1/projects/{project.slug}/").status_code for _call in range(30)} == {200}


def api_paths():
    """Every address of the API, with something in the place of each of its parts."""
    kinds = {"uuid": "00000000-0000-4000-8000-000000000000", "int": "1"}
    names = {"slug": "stories", "format_name": "native", "username": "annotator"}
    for route in get_resolver().url_patterns:
        if str(route.pattern) != "api/v1/":
            continue
        for included in route.url_patterns:
            for pattern in getattr(included, "url_patterns", ()):
                yield re.sub(
                    r"<(\w+):(\w+)>", lambda part: names.get(part[2]) or kinds[part[1]], f"/api/v1/{pattern.pattern}"
                )


@pytest.mark.parametrize("path", sorted(api_paths()))
def test_no_call_ignores_a_filter_that_it_does_not_know(path, api_for, admin, annotator, project):
    client = api_for(admin)
    for method in (client.get, client.post, client.patch):
        answer = method(f"{path}?user__password__startswith=a")
        assert answer.status_code in (400, 404, 405), (method, answer.data)
        if answer.status_code == 400 and method == client.get:  # without a body there is nothing else to refuse
            assert "user__password__startswith" in answer.data["error"]["fields"]
