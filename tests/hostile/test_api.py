"""Requests that are broken, or made to break something: a 4xx in the one error shape, and nothing is written."""

import json
from uuid import uuid4

import pytest

from annotation import assignment
from annotation.models import Assignment, Completion, Demonstration, Membership, Ranking, Task

pytestmark = pytest.mark.django_db

PROJECT = "/api/v1/projects/stories/"


def check_refusal(answer, status=400):
    assert answer.status_code == status, answer.content
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "fields"}
    assert error["message"]
    assert "Traceback" not in error["message"]


@pytest.fixture
def lease(project, annotator, task):
    return assignment.next_assignment(project, annotator=annotator)


@pytest.fixture
def good(lease):
    return {"client_id": str(uuid4()), "ranking": [[completion_id] for completion_id in lease.presented_order]}


def send(api, lease, body):
    url = f"/api/v1/assignments/{lease.pk}/ranking/"
    if isinstance(body, (bytes, str)):
        return api.post(url, body, content_type="application/json")
    return api.post(url, body)


@pytest.mark.parametrize(
    "query",
    [
        "user__password__startswith=a",
        "_connector=OR",
        "created_by__password=x",
        "limit=-1",
        "limit=1e9",
        "limit=1000000000",
        "offset=99999999999999999999",
        "limit=%00",
        "limit=" + "9" * 5000,
    ],
)
@pytest.mark.parametrize("name", ["tasks", "members", "prompt-sets", "demonstrations", "snapshots"])
def test_it_refuses_an_unknown_or_absurd_filter(api_for, admin, project, name, query):
    check_refusal(api_for(admin).get(f"{PROJECT}{name}/?{query}"))


@pytest.mark.parametrize(
    "query", ["purpose=fun", "simulated=maybe", "user__password=x", "purpose=%00", "purpose[]=train"]
)
def test_it_refuses_an_unknown_filter_of_an_export(api_for, admin, project, query):
    check_refusal(api_for(admin).get(f"{PROJECT}export/native/?{query}"))


def test_it_knows_no_such_format(api_for, admin, project):
    check_refusal(api_for(admin).get(f"{PROJECT}export/pickle/"), 404)


@pytest.mark.parametrize("query", ["ahead=maybe", "annotator=7", "ahead=1&count=1000000000"])
def test_it_refuses_unknown_parameters_of_next(api_for, annotator, task, query):
    check_refusal(api_for(annotator).post(f"{PROJECT}next/?{query}"))
    assert not Assignment.objects.exists()


@pytest.mark.parametrize(
    "extra",
    [
        {"_connector": "OR"},
        {"is_staff": True},
        {"annotator": 1},
        {"annotator_id": 1},
        {"source": "annotator"},
        {"weight": 1000},
        {"is_counted": True},
        {"\ud800": 1},
        {"__proto__": {}},
    ],
)
def test_it_refuses_mass_assignment(api_for, annotator, lease, good, extra):
    check_refusal(send(api_for(annotator), lease, json.dumps(good | extra)))
    assert not Ranking.objects.exists()


BAD_BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "an array": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "nested 100k deep": b"[" * 100_000,
    "objects nested 100k deep": b'{"ranking":' * 100_000,
    "invalid UTF-8": b'{"client_id": "\xff"}',
    "NaN": b'{"client_id": "c", "ranking": NaN}',
    "10,000 digits": b'{"client_id": "c", "ranking": [], "seconds": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_it_refuses_a_body_that_is_none(api_for, annotator, lease, case):
    check_refusal(send(api_for(annotator), lease, BAD_BODIES[case]))
    assert not Ranking.objects.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": None},
        {"client_id": "x" * 65},
        {"client_id": "a\x00b"},
        {"client_id": "\ud800"},
        {"client_id": {"$ne": None}},
        {"ranking": None},
        {"ranking": "abc"},
        {"ranking": [["\ud800"]]},
        {"ranking": [["a\x00"]]},
        {"ranking": [[str(uuid4())], [str(uuid4())]]},
        {"none_acceptable": 1},
        {"rationale": "\ud800"},
        {"rationale": "a\x00"},
        {"rationale": "x" * 10_000_000},
        {"strength": 2**63},
        {"strength": -1},
        {"seconds": -1},
        {"seconds": "1e999"},
        {"ratings": {"\ud800": {"overall": 1}}},
        {"flags": [["opinion"]]},
        {"flags": {"x": 10**9}},
    ],
)
def test_it_refuses_a_ranking_with_a_bad_field(api_for, annotator, lease, good, change):
    check_refusal(send(api_for(annotator), lease, json.dumps(good | change)))
    assert not Ranking.objects.exists()
    assert Assignment.objects.get().state == "leased"


def test_it_refuses_an_infinite_number(api_for, annotator, lease, good):
    body = json.dumps(good)[:-1] + ', "seconds": 1e999}'
    check_refusal(send(api_for(annotator), lease, body))


@pytest.mark.parametrize("kind", ["duplicate", "missing", "foreign"])
def test_it_refuses_duplicate_missing_and_foreign_ids(api_for, annotator, lease, good, kind):
    groups = good["ranking"]
    changed = {
        "duplicate": [*groups, groups[0]],
        "missing": [groups[0], []],
        "foreign": [groups[0], [str(uuid4())]],
    }[kind]
    check_refusal(send(api_for(annotator), lease, good | {"ranking": changed}))
    assert not Ranking.objects.exists()


def test_it_refuses_a_body_that_is_too_large(api_for, annotator, lease, good, settings):
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    check_refusal(send(api_for(annotator), lease, good | {"rationale": "x" * 2000}), 413)


def test_it_does_not_know_a_made_up_assignment(api_for, annotator, lease, good):
    url = f"/api/v1/assignments/{uuid4()}/ranking/"
    check_refusal(api_for(annotator).post(url, good), 404)
    assert api_for(annotator).post("/api/v1/assignments/1/ranking/", good).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"completions": []},
        {"completions": "all"},
        {"completions": [7]},
        {"completions": [{}] * 1001},
        {"completions": [{"prompt_digest": "x", "message": {"role": "assistant", "content": "a"}}]},
        {"completions": [{"chat_template": "{{ 1 }}"}]},
        {"chat_template": "{{ 1 }}"},
        {"n": 10**9},
    ],
)
def test_it_refuses_bad_completions(api_for, admin, prompt, body):
    check_refusal(api_for(admin).post(f"{PROJECT}completions/", body))
    assert not Completion.objects.exists()


def test_it_refuses_an_answer_of_10_mb(api_for, admin, prompt):
    row = {
        "prompt_digest": prompt.digest,
        "message": {"role": "assistant", "content": "a" * 10_000_000},
        "generator": {"kind": "import"},
    }
    check_refusal(api_for(admin).post(f"{PROJECT}completions/", {"completions": [row]}))


@pytest.mark.parametrize(
    "change",
    [
        {"completions": [str(uuid4()), str(uuid4())]},
        {"completions": ["x"]},
        {"completions": None},
        {"purpose": "fun"},
        {"purpose": "\ud800"},
        {"priority": 2**63},
        {"priority": 1.5},
        {"overlap": -1},
        {"overlap": 10**9},
        {"propensity": 0},
        {"propensity": "nan"},
        {"prompt_digest": "f" * 64},
        {"reason": "a\x00"},
        {"batch": "x" * 65},
        {"project": 1},
    ],
)
def test_it_refuses_a_bad_task(api_for, admin, prompt, make_completions, change):
    good = {"completions": [str(row.pk) for row in make_completions(prompt, "a", "b")]}
    check_refusal(api_for(admin).post(f"{PROJECT}tasks/", json.dumps(good | change), content_type="application/json"))
    assert not Task.objects.exists()


def test_it_refuses_the_answers_of_another_project(api_for, admin, prompt, make_completions):
    from annotation.models import Project, PromptSet

    other = Project.objects.create(slug="other", name="Other")
    made = make_completions(prompt, "a", "b")
    PromptSet.objects.update(project=other)
    check_refusal(api_for(admin).post(f"{PROJECT}tasks/", {"completions": [str(row.pk) for row in made]}))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a"},
        {"prompt_digest": "f" * 64, "text": "a"},
        {"prompt_digest": "\ud800", "text": "a"},
        {"ranking": str(uuid4()), "text": "a"},
        {"ranking": "x", "text": "a"},
        {"ranking": str(uuid4()), "prompt_digest": "f" * 64, "text": "a"},
    ],
)
def test_it_refuses_a_bad_demonstration(api_for, annotator, prompt, body):
    answer = api_for(annotator).post(f"{PROJECT}demonstrations/", json.dumps(body), content_type="application/json")
    check_refusal(answer)
    assert not Demonstration.objects.exists()


@pytest.mark.parametrize("text", ["", " ", "a\x00", "\ud800", "a" * 3_000_000])
def test_it_refuses_a_demonstration_that_cannot_be_stored(api_for, annotator, prompt, text):
    body = {"prompt_digest": prompt.digest, "message": {"role": "assistant", "content": text}}
    answer = api_for(annotator).post(f"{PROJECT}demonstrations/", json.dumps(body), content_type="application/json")
    check_refusal(answer)
    assert not Demonstration.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {"username": "outsider", "is_staff": True},
        {"username": "outsider", "role": "owner"},
        {"username": ""},
        {"username": {"$ne": ""}},
        {"username": "a\x00"},
        {"username": "outsider", "simulated": "perhaps"},
    ],
)
def test_it_refuses_a_bad_member(api_for, admin, outsider, body):
    check_refusal(api_for(admin).post(f"{PROJECT}members/", body))
    assert not Membership.objects.filter(user=outsider).exists()


def test_it_takes_no_membership_from_itself(api_for, annotator, project):
    answer = api_for(annotator).patch(f"{PROJECT}members/annotator/", {"role": "admin"})
    check_refusal(answer, 403)


@pytest.mark.parametrize("purposes", [["eval"], ["train", "gold"], [], ["fun"], "train", [None]])
def test_it_refuses_a_snapshot_of_what_measures(api_for, admin, project, purposes):
    check_refusal(api_for(admin).post(f"{PROJECT}snapshots/", {"purposes": purposes}))


def test_it_refuses_an_upload_without_a_file(api_for, admin, project):
    check_refusal(api_for(admin).post(f"{PROJECT}prompt-sets/", {"file": "not a file"}, format="multipart"))
    check_refusal(api_for(admin).post(f"{PROJECT}prompt-sets/", {"file": "x"}))


def test_it_refuses_an_upload_that_is_too_large(api_for, admin, project, monkeypatch):
    from django.core.files.uploadedfile import SimpleUploadedFile

    from annotation import api, prompts

    monkeypatch.setattr(prompts, "MAX_FILE_BYTES", 100)
    monkeypatch.setattr(api, "UPLOAD_OVERHEAD", 0)
    file = SimpleUploadedFile("x.jsonl", b'{"prompt": "a"}\n' * 100)
    check_refusal(api_for(admin).post(f"{PROJECT}prompt-sets/", {"file": file}, format="multipart"), 413)
