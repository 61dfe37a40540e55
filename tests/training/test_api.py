"""The HTTP API of rounds, runs and checkpoints."""

import pytest

from training import runs
from training.models import Metric, Round, Run, RunState

pytestmark = pytest.mark.django_db

BASE = "/api/v1"


def addresses(run, checkpoint):
    return [
        ("post", f"{BASE}/projects/stories/rounds/"),
        ("get", f"{BASE}/projects/stories/rounds/1/"),
        ("post", f"{BASE}/projects/stories/runs/"),
        ("get", f"{BASE}/runs/{run.id}/"),
        ("get", f"{BASE}/runs/{run.id}/metrics/"),
        ("post", f"{BASE}/runs/{run.id}/cancel/"),
        ("get", f"{BASE}/projects/stories/checkpoints/"),
        ("post", f"{BASE}/checkpoints/{checkpoint.id}/promote/"),
    ]


def test_it_does_not_exist_for_outsiders_and_is_closed_to_annotators(make_run, sft, outsider, annotator, api_for):
    run = make_run()
    for method, address in addresses(run, sft):
        assert getattr(api_for(outsider), method)(address).status_code == 404, address
        assert getattr(api_for(annotator), method)(address).status_code in (403, 404), address
        assert getattr(api_for(None), method)(address).status_code == 401, address
    run.refresh_from_db()
    assert run.state == RunState.QUEUED


def test_it_lets_reviewers_read_and_not_write(make_run, sft, reviewer, api_for):
    client = api_for(reviewer)
    for method, address in addresses(make_run(), sft):
        expected = 403 if method == "post" else 404 if "rounds" in address else 200
        assert getattr(client, method)(address).status_code == expected, address


def test_it_makes_one_run_for_one_key(sft, project, admin, api_for, make_run):
    make_run()
    client = api_for(admin)
    body = {"stage": "generate", "inputs": {"policy": sft.digest}, "config": {"generate": {"limit": 3}}}
    answer = client.post(f"{BASE}/projects/stories/runs/", body)
    assert answer.status_code == 400
    assert "needs the input prompts" in answer.json()["error"]["message"]

    from annotation import snapshots

    body["inputs"]["prompts"] = snapshots.freeze(project).digest
    made = [client.post(f"{BASE}/projects/stories/runs/", body, headers={"Idempotency-Key": "k"}) for _time in range(2)]
    assert [answer.status_code for answer in made] == [201, 200]
    assert made[0].json()["id"] == made[1].json()["id"]
    assert Run.objects.get(id=made[0].json()["id"]).config["generate"]["limit"] == 3


@pytest.mark.parametrize(
    "body",
    [
        {"stage": "$(reboot)"},
        {"stage": "generate", "config": {"generate.limit": -1}},
        {"stage": "generate", "config": {"generate.limit": 2**63}, "inputs": {"policy": "x"}},
        {"stage": "generate", "config": {"inputs": {"policy": "/etc/passwd"}}},
        {"stage": "generate", "config": [1]},
        {"stage": "generate", "inputs": {"policy": "../../x"}},
        {"stage": "generate", "inputs": {"policy": ["a"]}},
        {"stage": "generate", "owner": "me"},
        {"stage": "generate", "name": "x" * 201},
        {},
        [],
    ],
)
def test_it_refuses_hostile_runs_with_one_sentence(body, sft, admin, api_for):
    answer = api_for(admin).post(f"{BASE}/projects/stories/runs/", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert not Run.objects.exists()


def test_it_refuses_hostile_settings_of_a_run(sft, project, admin, api_for):
    for config in ({"run": 5}, {"run.seed": "x"}, {"ppo.kl_coef": "nan"}, {"": {"": 1}}, {"a.b.c": 1}):
        answer = api_for(admin).post(
            f"{BASE}/projects/stories/runs/",
            {"stage": "generate", "inputs": {"policy": sft.digest}, "config": config},
        )
        assert answer.status_code == 400, config


@pytest.mark.parametrize("depth", [500, 900, 5_000, 100_000])
def test_it_refuses_settings_nested_too_deep(depth, sft, admin, api_for):
    body = '{"stage": "generate", "config": ' + '{"a": ' * depth + "1" + "}" * depth + "}"
    answer = api_for(admin).post(f"{BASE}/projects/stories/runs/", body, content_type="application/json")
    assert answer.status_code == 400


def test_it_says_why_a_round_cannot_start(sft, admin, api_for):
    answer = api_for(admin).post(f"{BASE}/projects/stories/rounds/", {})
    assert answer.status_code == 409
    assert answer.json()["error"]["message"].startswith("There are no prompts yet")
    assert not Round.objects.exists()


def test_it_refuses_wrong_settings_of_a_round(project, sft, prompts, admin, api_for, monkeypatch):
    from training import rounds

    monkeypatch.setattr(rounds, "refuse_too_few", lambda project: None)
    answer = api_for(admin).post(f"{BASE}/projects/stories/rounds/", {"overrides": {"ppo.kl_coef": -1}})
    assert (answer.status_code, list(answer.json()["error"]["fields"])) == (400, ["overrides"])
    assert not Round.objects.exists()


def test_it_shows_a_round_with_its_runs(sft, project, prompts, admin, api_for):
    from training import rounds

    round = rounds.first_completions(project, created_by=admin)
    rounds.advance(round.id)
    body = api_for(admin).get(f"{BASE}/projects/stories/rounds/0/").json()
    assert (body["number"], body["state"]) == (0, "running")
    assert [run["stage"] for run in body["runs"]] == ["generate"]


def test_it_shows_metrics_behind_a_step(make_run, reviewer, api_for):
    run = make_run()
    for step in range(4):
        Metric.objects.create(run=run, step=step, values={"loss": None if step == 2 else step}, time=run.created_at)
    client = api_for(reviewer)
    body = client.get(f"{BASE}/runs/{run.id}/metrics/?after=1").json()
    assert [(row["step"], row["values"]) for row in body["metrics"]] == [(2, {"loss": None}), (3, {"loss": 3.0})]
    assert body["state"] == "queued"
    assert len(client.get(f"{BASE}/runs/{run.id}/metrics/").json()["metrics"]) == 4
    for wrong in ("after=x", "after=-2", "after=1e3", "after=99999999999999", "before=3", "after=" + "9" * 5000):
        assert client.get(f"{BASE}/runs/{run.id}/metrics/?{wrong}").status_code == 400


def test_it_cancels_a_run(make_run, admin, api_for):
    run = make_run()
    client = api_for(admin)
    assert client.post(f"{BASE}/runs/{run.id}/cancel/").json()["state"] == "cancelled"
    assert client.post(f"{BASE}/runs/{run.id}/cancel/").status_code == 200
    assert runs.claim(run.id, owner="x") is None


def test_it_promotes_a_checkpoint_and_refuses_a_damaged_one(make_checkpoint, admin, api_for, data_dir):
    good, bad = make_checkpoint(), make_checkpoint()
    (data_dir / bad.uri / "model.safetensors").unlink()
    client = api_for(admin)
    assert client.post(f"{BASE}/checkpoints/{good.id}/promote/").json()["state"] == "promoted"
    answer = client.post(f"{BASE}/checkpoints/{bad.id}/promote/")
    assert answer.status_code == 409
    assert "lacks 'model.safetensors'" in answer.json()["error"]["message"]
    listed = client.get(f"{BASE}/projects/stories/checkpoints/").json()
    assert {row["id"]: row["state"] for row in listed} == {str(good.id): "promoted", str(bad.id): "verified"}


def test_it_does_not_find_another_projects_artifacts(sft, make_user, api_for, prompts):
    from annotation import projects

    stranger = make_user("stranger")
    projects.create_project(name="Other", slug="other", created_by=stranger)
    body = {"stage": "generate", "inputs": {"policy": sft.digest}}
    answer = api_for(stranger).post(f"{BASE}/projects/other/runs/", body)
    assert answer.status_code == 400
    assert "does not have" in answer.json()["error"]["message"]
