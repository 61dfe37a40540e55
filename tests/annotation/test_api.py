import json
from uuid import uuid4

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from annotation import assignment, demonstrations, snapshots
from annotation.models import Membership, Project, PromptSet, Ranking, Task

pytestmark = pytest.mark.django_db

PROJECT = "/api/v1/projects/stories/"


def upload(api, content, name="prompts.jsonl", **fields):
    file = SimpleUploadedFile(name, content if isinstance(content, bytes) else content.encode())
    return api.post(f"{PROJECT}prompt-sets/", {"file": file, **fields}, format="multipart")


def claim(api, **parameters):
    answer = api.post(f"{PROJECT}next/", query_params=parameters or None)
    assert answer.status_code == 200, answer.content
    return answer.json()


def ranking_of(claimed, **fields):
    order = [[completion["id"]] for completion in claimed["completions"]]
    return {"client_id": str(uuid4()), "ranking": order, **fields}


def ranking_url(claimed):
    return f"/api/v1/assignments/{claimed['assignment']['id']}/ranking/"


def test_it_goes_the_whole_way_by_http(api_for, admin, annotator, project):
    api, rater = api_for(admin), api_for(annotator)
    answer = upload(api, '{"prompt": "Tell a story.", "pool": "reward"}\n{"prompt": "Tell two."}\n', name="one.jsonl")
    assert answer.status_code == 201
    assert answer.json()["prompts"] == 2
    digest = project.prompt_sets.get().prompts.get(position=1).digest
    rows = [
        {
            "prompt_digest": digest,
            "message": {"role": "assistant", "content": text},
            "generator": {"kind": "import", "model": "secret-model"},
        }
        for text in ("One.", "Two.", "Three.")
    ]
    made = api.post(f"{PROJECT}completions/", {"completions": rows}).json()["completions"]
    task = api.post(f"{PROJECT}tasks/", {"completions": [row["id"] for row in made]})
    assert task.status_code == 201
    assert task.json()["slots"] == {"open": 1, "leased": 0, "done": 0}
    claimed = claim(rater)
    assert set(claimed) == {"assignment", "prompt", "completions", "lease_expires_at"}
    assert sorted(row["text"] for row in claimed["completions"]) == ["One.", "Three.", "Two."]
    handed_in = rater.post(ranking_url(claimed), ranking_of(claimed, rationale="The first is kind."))
    assert handed_in.status_code == 201
    assert handed_in.json()["counted"] is True
    assert rater.post(f"{PROJECT}next/").status_code == 204
    exported = api.get(f"{PROJECT}export/native/")
    line = json.loads(b"".join(exported.streaming_content))
    assert line["ranking"] == handed_in.json()["ranking"]
    assert line["completions"][0]["generator"]["model"] == "secret-model"
    assert api.post(f"{PROJECT}snapshots/", {}).json()["counts"]["rankings"] == 1


def test_it_tells_annotators_nothing_of_the_model(api_for, annotator, make_completions, prompt, project):
    from annotation import assignment

    generator = {"kind": "checkpoint", "digest": "f" * 64, "model": "secret-model", "seed": 77001}
    assignment.queue_task(
        project,
        prompt=prompt,
        completions=make_completions(prompt, "One.", "Two.", generator=generator),
        reason="round 7",
        batch="secret-batch",
    )
    api = api_for(annotator)
    answer = api.post(f"{PROJECT}next/")
    claimed = answer.json()
    later = api.post(ranking_url(claimed), ranking_of(claimed))
    said = answer.content + later.content + str(dict(answer.headers) | dict(later.headers)).encode()
    for secret in (b"f" * 12, b"secret", b"77001", b"round", b"checkpoint", b"generator", b"train"):
        assert secret not in said


def test_a_task_on_the_eval_pool_measures_and_says_so(api_for, admin, make_prompts, make_completions, project):
    (prompt,) = make_prompts("Kept for evaluation.", pool="eval")
    body = {"completions": [str(completion.pk) for completion in make_completions(prompt, "One.", "Two.")]}
    api = api_for(admin)
    for purpose in ("train", "adjudication"):
        answer = api.post(f"{PROJECT}tasks/", body | {"purpose": purpose})
        assert answer.status_code == 400
        assert "the prompt is of the pool “eval”" in answer.json()["error"]["fields"]["purpose"][0]
    assert not Task.objects.exists()
    made = api.post(f"{PROJECT}tasks/", body)
    assert (made.status_code, made.json()["purpose"]) == (201, "eval")


def test_a_task_on_any_other_pool_trains(api_for, admin, make_prompts, make_completions, project):
    for pool in ("reward", "ppo", "sft"):
        (prompt,) = make_prompts(f"Tell a story for {pool}.", pool=pool, name=pool)
        made = make_completions(prompt, "One.", "Two.")
        answer = api_for(admin).post(f"{PROJECT}tasks/", {"completions": [str(completion.pk) for completion in made]})
        assert answer.json()["purpose"] == "train"


def test_it_answers_a_repeated_submit_with_the_first_answer(api_for, annotator, task):
    api = api_for(annotator)
    claimed = claim(api)
    body = ranking_of(claimed, seconds=12.5)
    first = api.post(ranking_url(claimed), body)
    again = api.post(ranking_url(claimed), body)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert Ranking.objects.count() == 1
    other = api.post(ranking_url(claimed), {**body, "rationale": "changed"})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "conflict"
    edit = api.post(ranking_url(claimed), {**body, "client_id": "new", "rationale": "changed"})
    assert edit.json()["version"] == 2


def test_it_takes_a_rewritten_answer_as_a_demonstration(api_for, annotator, second_annotator, task, project):
    api = api_for(annotator)
    claimed = claim(api)
    ranking = api.post(ranking_url(claimed), ranking_of(claimed)).json()
    body = {"ranking": ranking["id"], "message": {"role": "assistant", "content": "A better one."}}
    assert api.post(f"{PROJECT}demonstrations/", body).status_code == 201
    assert api_for(second_annotator).post(f"{PROJECT}demonstrations/", body).status_code == 400
    assert project.demonstrations.get().prompt == task.prompt


def test_it_releases_the_lease_that_the_caller_knows(api_for, annotator, second_annotator, task):
    api = api_for(annotator)
    known = claim(api)
    url = f"/api/v1/assignments/{known['assignment']['id']}/release/"
    renewed = claim(api)
    body = {"lease_expires_at": known["lease_expires_at"]}
    assert api.post(url, body).json()["assignment"]["state"] == "leased"
    assert api_for(second_annotator).post(f"{PROJECT}next/").status_code == 204
    body = {"lease_expires_at": renewed["lease_expires_at"]}
    assert api.post(url, body).json()["assignment"]["state"] == "expired"
    assert api.post(url, {"lease_expires_at": "soon"}).status_code == 400
    assert claim(api_for(second_annotator))["assignment"]["id"] != known["assignment"]["id"]


def test_it_lets_a_token_skip_and_keep_a_task(api_for, annotator, task):
    api = api_for(annotator)
    claimed = claim(api)
    url = f"/api/v1/assignments/{claimed['assignment']['id']}/"
    assert api.post(f"{url}heartbeat/").json()["lease_expires_at"] >= claimed["lease_expires_at"]
    assert api.post(f"{url}skip/", {"reason": "unclear"}).json()["assignment"]["state"] == "skipped"
    assert api.post(f"{PROJECT}next/").status_code == 204


def test_it_hides_another_annotators_assignment(api_for, annotator, second_annotator, task):
    claimed = claim(api_for(annotator))
    other = api_for(second_annotator)
    for call, body in (("ranking", ranking_of(claimed)), ("skip", {}), ("heartbeat", {}), ("release", {})):
        assert other.post(f"/api/v1/assignments/{claimed['assignment']['id']}/{call}/", body).status_code == 404


def test_it_keeps_the_queue_hot(api_for, annotator, make_tasks, django_assert_max_num_queries):
    make_tasks(3)
    api = api_for(annotator)
    claimed = claim(api)
    api.post(ranking_url(claimed), ranking_of(claimed))
    with django_assert_max_num_queries(15):
        claimed = claim(api)
    with django_assert_max_num_queries(14):
        assert api.post(ranking_url(claimed), ranking_of(claimed)).status_code == 201


def test_a_demonstration_is_withdrawn_by_reviewers_and_whoever_wrote_it(
    api_for, project, prompt, annotator, second_annotator, reviewer, outsider
):
    for author in (annotator, second_annotator):
        message = {"role": "assistant", "content": f"By {author}."}
        demonstrations.add_demonstration(project, prompt=prompt, author=author, message=message)
    first, second = project.demonstrations.order_by("created_at")
    path = PROJECT + "demonstrations/{}/withdraw/"
    assert api_for(outsider).post(path.format(first.pk)).status_code == 404
    assert api_for(annotator).post(path.format(second.pk)).status_code == 404
    assert api_for(annotator).post(path.format(first.pk)).json()["withdrawn_at"]
    assert api_for(reviewer).post(path.format(second.pk)).json()["withdrawn_at"]
    assert not project.demonstrations.filter(withdrawn_at=None).exists()


def test_a_page_made_for_somebody_else_sends_nothing_in_ones_name(client_for, annotator, second_annotator, task):
    lease = assignment.next_assignment(task.project, annotator=annotator)
    path = f"/api/v1/assignments/{lease.pk}/heartbeat/"
    pages = [path, PROJECT + "next/", reverse("annotation:rank_task", args=["stories"])]
    signed_in, person = client_for(second_annotator), {"X-Plumbline-Person": str(annotator.pk)}
    for page in pages:
        answer = signed_in.post(page, {}, content_type="application/json", headers=person)
        assert answer.status_code == 401, page
    assert second_annotator.assignments.count() == 0
    own = client_for(annotator).post(path, {}, content_type="application/json", headers=person)
    assert own.status_code == 200


def test_a_full_disk_is_no_fault_of_the_call(api_for, admin, project, monkeypatch):
    def full(project, **fields):
        raise snapshots.StorageError("Free some space there and try again.")

    monkeypatch.setattr(snapshots, "freeze", full)
    answer = api_for(admin).post(f"{PROJECT}snapshots/", {}, format="json")
    assert (answer.status_code, answer.json()["error"]["fields"]) == (507, {})
    assert "Free some space" in answer.json()["error"]["message"]


CALLS = [
    ("get", "api_project", {}),
    ("patch", "api_project", {}),
    ("get", "api_prompt_sets", {}),
    ("post", "api_prompt_sets", {}),
    ("post", "api_next", {}),
    ("get", "api_export", {"format_name": "native"}),
    ("post", "api_completions", {}),
    ("get", "api_tasks", {}),
    ("post", "api_tasks", {}),
    ("get", "api_demonstrations", {}),
    ("post", "api_demonstrations", {}),
    ("get", "api_members", {}),
    ("post", "api_members", {}),
    ("patch", "api_member", {"username": "annotator"}),
    ("get", "api_snapshots", {}),
    ("post", "api_snapshots", {}),
]
FOR_ANNOTATORS = {("get", "api_project"), ("post", "api_next"), ("post", "api_demonstrations")}


@pytest.mark.parametrize(("method", "name", "arguments"), CALLS)
def test_it_does_not_exist_for_the_outsider(api_for, outsider, annotator, project, method, name, arguments):
    url = reverse(name, kwargs={"slug": "stories", **arguments})
    assert getattr(api_for(outsider), method)(url).status_code == 404
    assert getattr(api_for(None), method)(url).status_code == 401


@pytest.mark.parametrize(("method", "name", "arguments"), CALLS)
def test_it_keeps_annotators_and_reviewers_to_their_part(
    api_for, annotator, reviewer, project, method, name, arguments
):
    url = reverse(name, kwargs={"slug": "stories", **arguments})
    for user in (annotator, reviewer):
        answer = getattr(api_for(user), method)(url)
        assert (answer.status_code == 403) is ((method, name) not in FOR_ANNOTATORS)


def test_it_lists_only_ones_own_projects(api_for, annotator, outsider, project):
    Project.objects.create(slug="other", name="Other")
    assert [row["slug"] for row in api_for(annotator).get("/api/v1/projects/").json()["results"]] == ["stories"]
    assert api_for(outsider).get("/api/v1/projects/").json()["results"] == []


def test_it_lets_staff_alone_make_projects(api_for, admin, make_user):
    assert api_for(admin).post("/api/v1/projects/", {"name": "Mine"}).status_code == 403
    staff = make_user("boss", is_staff=True)
    made = api_for(staff).post("/api/v1/projects/", {"name": "Mine", "overlap": 2})
    assert made.status_code == 201
    assert (made.json()["slug"], made.json()["overlap"]) == ("mine", 2)
    assert api_for(staff).get("/api/v1/projects/mine/").json()["role"] == "admin"


def test_it_changes_a_project(api_for, admin, project):
    assert api_for(admin).patch(PROJECT, {"daily_goal": 5}).json()["daily_goal"] == 5
    assert api_for(admin).patch(PROJECT, {"daily_goal": 0}).status_code == 400
    assert api_for(admin).patch(PROJECT, {"slug": "else"}).status_code == 400


def test_it_adds_and_changes_members(api_for, admin, outsider, project):
    api = api_for(admin)
    body = {"username": "outsider", "role": "annotator", "simulated": True}
    assert api.post(f"{PROJECT}members/", body).json()["simulated"] is True
    assert api.patch(f"{PROJECT}members/outsider/", {"active": False}).json()["active"] is False
    assert api_for(outsider).post(f"{PROJECT}next/").status_code == 404
    only_admin = api.patch(f"{PROJECT}members/admin/", {"role": "annotator"})
    assert only_admin.status_code == 400
    assert "only admin" in only_admin.json()["error"]["message"]
    assert api.post(f"{PROJECT}members/", {"username": "nobody"}).status_code == 400


def test_it_names_row_and_field_of_a_bad_import(api_for, admin, project):
    answer = upload(api_for(admin), '{"prompt": "fine"}\n{"prompt": 7}\n')
    assert answer.status_code == 400
    assert answer.json()["error"]["fields"] == {"prompt": ["row 2, prompt: must be a text."]}
    assert not PromptSet.objects.exists()


def test_it_imports_the_same_file_once(api_for, admin, project):
    api = api_for(admin)
    assert upload(api, '{"prompt": "fine"}').status_code == 201
    again = upload(api, '{"prompt": "fine"}', name="other.jsonl")
    assert (again.status_code, again.json()["already_imported"]) == (200, True)
    assert PromptSet.objects.count() == 1


def test_it_makes_no_task_of_identical_answers(api_for, admin, prompt, make_completions):
    made = make_completions(prompt, "Same.", "Same.")
    answer = api_for(admin).post(f"{PROJECT}tasks/", {"completions": [str(row.pk) for row in made]})
    assert (answer.status_code, answer.json()["task"]) == (200, None)
    assert not Task.objects.exists()


def test_it_pages_through_lists(api_for, admin, make_tasks):
    make_tasks(3)
    first = api_for(admin).get(f"{PROJECT}tasks/", {"limit": 2}).json()
    rest = api_for(admin).get(f"{PROJECT}tasks/", {"limit": 2, "offset": first["next"]}).json()
    assert (first["count"], len(first["results"]), len(rest["results"]), rest["next"]) == (3, 2, 1, None)


def test_it_describes_every_call_in_the_schema(client):
    from drf_spectacular.generators import SchemaGenerator

    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    assert "/api/v1/projects/{slug}/next/" in paths
    assert "/api/v1/assignments/{assignment_id}/ranking/" in paths


def test_it_marks_simulated_members_whatever_they_say(api_for, annotator, task):
    Membership.objects.filter(user=annotator).update(simulated=True)
    api = api_for(annotator)
    claimed = claim(api)
    assert api.post(ranking_url(claimed), {**ranking_of(claimed), "source": "annotator"}).status_code == 400
    api.post(ranking_url(claimed), ranking_of(claimed))
    assert Ranking.objects.get().source == "simulated"


def test_it_does_not_tell_the_order_of_a_task_by_what_was_left_out(api_for, annotator, make_task, prompt):
    # The new policy's answers stand first in a task.
    texts = [f"Once {number}." for number in range(9)]
    make_task(prompt, *texts)
    api = api_for(annotator)
    claimed = claim(api)
    ids = [completion["id"] for completion in claimed["completions"]]
    answer = api.post(ranking_url(claimed), {"client_id": "c", "ranking": [[ids[0]], [ids[1]]]}, format="json").json()
    assert answer["unranked"] == sorted(ids[2:])


def test_it_bears_a_nul_wherever_a_text_is_looked_up_or_kept(api_for, client_for, admin, annotator, task):
    assert api_for(admin).patch(f"{PROJECT}members/a%00b/", {"active": True}, format="json").status_code == 404
    client = client_for(annotator)
    page = client.get("/projects/stories/rank/")
    assignment = page.context["assignment"]
    posted = {"assignment": assignment.pk, "action": "skip", "skip_reason": "too\x00 hard"}
    assert client.post("/projects/stories/rank/", posted).status_code == 302
    assignment.refresh_from_db()
    assert assignment.skip_reason == "too hard"
