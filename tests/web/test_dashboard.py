"""The dashboard's pages without a browser: who may see them, what they say, how much they ask of the database."""

import re

import pytest
from django.urls import reverse

from annotation.models import Project, Snapshot
from tests.web import dashboard_story as story
from training import plans, runs
from training.models import Checkpoint, Plan, Round, Run

pytestmark = pytest.mark.django_db


@pytest.fixture
def trained(project, annotator, make_user):
    """A project with a finished round, new rankings since, and a round under way."""
    story.add_prompts(project)
    story.add_policy(project)
    story.add_rankings(project, annotator, 70)
    story.finished_round(project)
    story.add_rankings(project, annotator, 12)
    story.running_round(project)
    return project


def text_of(response):
    """What one reads, without tags and runs of space."""
    return " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())


def addresses(project):
    """Every page of a project, by name."""
    run = Run.objects.filter(stage="ppo").first()
    policy = Checkpoint.objects.get(project=project, role="policy")
    return {
        "dashboard": reverse("training:dashboard", args=[project.slug]),
        "plan": reverse("training:plan", args=[project.slug]),
        "rounds": reverse("training:rounds", args=[project.slug]),
        "round": reverse("training:round", args=[project.slug, 1]),
        "run": reverse("training:run", args=[project.slug, run.id]),
        "run_log": reverse("training:run_log", args=[project.slug, run.id]),
        "checkpoints": reverse("training:checkpoints", args=[project.slug]),
        "promote": reverse("training:promote", args=[project.slug, policy.id]),
        "withdraw": reverse("training:withdraw", args=[project.slug, policy.id]),
    }


def actions(project):
    """Every address that a form posts to."""
    run = Run.objects.filter(stage="ppo").first()
    policy = Checkpoint.objects.get(project=project, role="policy")
    return [
        reverse("training:rounds", args=[project.slug]),
        reverse("training:first_answers", args=[project.slug]),
        reverse("training:cancel_round", args=[project.slug, 2]),
        reverse("training:retry_round", args=[project.slug, 2]),
        reverse("training:cancel_run", args=[project.slug, run.id]),
        reverse("training:checkpoints", args=[project.slug]),
        reverse("training:use_starter", args=[project.slug]),
        reverse("training:promote", args=[project.slug, policy.id]),
        reverse("training:withdraw", args=[project.slug, policy.id]),
        reverse("training:plan", args=[project.slug]),
    ]


def test_it_hides_every_page_from_the_outsider(trained, client_for, outsider):
    client = client_for(outsider)
    assert {name: client.get(url).status_code for name, url in addresses(trained).items()} == dict.fromkeys(
        addresses(trained), 404
    )
    assert {client.post(url).status_code for url in actions(trained)} == {404}


def test_it_asks_the_stranger_to_sign_in(trained, client):
    for url in addresses(trained).values():
        response = client.get(url)
        assert response.status_code == 302 and "/account/login/" in response.url


def test_it_shows_every_page_to_an_admin(trained, client_for, admin):
    client = client_for(admin)
    assert {name: client.get(url).status_code for name, url in addresses(trained).items()} == dict.fromkeys(
        addresses(trained), 200
    )


def test_it_lets_a_reviewer_look_and_not_decide(trained, client_for, reviewer):
    client = client_for(reviewer)
    seen = {name: client.get(url).status_code for name, url in addresses(trained).items()}
    assert {name for name, status in seen.items() if status == 403} == {"plan", "promote", "withdraw"}
    assert {client.post(url).status_code for url in actions(trained)} == {403}
    assert "<button" not in client.get(addresses(trained)["dashboard"]).content.decode().split("<main")[1].replace(
        '<button type="button" class="hint"', ""
    )


def test_it_sends_an_annotator_to_ranking(trained, client_for, annotator):
    client = client_for(annotator)
    assert client.get(addresses(trained)["dashboard"]).url == reverse("annotation:rank", args=[trained.slug])
    others = [url for name, url in addresses(trained).items() if name != "dashboard"]
    assert {client.get(url).status_code for url in others} == {403}


def test_it_keeps_rounds_and_runs_of_another_project_apart(trained, client_for, admin):
    other = Project.objects.create(slug="other", name="Other")
    story.add_member(other, admin, role="admin")
    client = client_for(admin)
    run = Run.objects.filter(stage="ppo").first()
    policy = Checkpoint.objects.get(project=trained, role="policy")
    assert client.get(reverse("training:round", args=["other", 1])).status_code == 404
    assert client.get(reverse("training:run", args=["other", run.id])).status_code == 404
    assert client.post(reverse("training:promote", args=["other", policy.id])).status_code == 404
    assert Checkpoint.objects.get(id=policy.id).state == "verified"


def test_it_guides_a_new_project(project, client_for, admin):
    said = text_of(client_for(admin).get(reverse("training:dashboard", args=[project.slug])))
    assert "Nothing here yet. Import prompts to begin" in said
    assert "Add a starting model" in said and "Invite people" in said


def test_it_says_what_a_round_under_way_does(trained, client_for, admin):
    said = text_of(client_for(admin).get(reverse("training:dashboard", args=[trained.slug])))
    assert "Round 2 is under way: PPO." in said
    assert "12 / 40" in said and "left" in said
    assert "Start round 3" in said and "Round 2 is under way." in said
    assert story.NEW_STORY[:40] in said and story.OLD_STORY[:40] in said


def test_it_shows_no_old_figures_of_simulated_judges_as_peoples(project, client_for, admin, make_user):
    robot = make_user("simulated-1")
    story.add_member(project, robot, simulated=True)
    story.add_prompts(project)
    story.add_policy(project)
    story.add_rankings(project, robot, 70, source="simulated")
    row = story.finished_round(project)
    story.judge_blind(project, robot, row, wins=8, losses=2, source="simulated")
    client = client_for(admin)
    said = text_of(client.get(reverse("training:dashboard", args=[project.slug])))
    assert "all simulated" in said and "simulated judges" in said
    said = text_of(client.get(reverse("training:round", args=[project.slug, 1])))
    assert "nobody has judged yet" in said and "Wins, simulated judges" in said


def test_it_sets_peoples_blind_judgments_beside_the_reward_models_word(project, client_for, admin, annotator):
    story.add_prompts(project)
    story.add_policy(project)
    story.add_rankings(project, annotator, 70)
    row = story.finished_round(project)
    story.judge_blind(project, annotator, row, wins=9, losses=3)
    said = text_of(client_for(admin).get(reverse("training:round", args=[project.slug, 1])))
    assert "75%" in said and "12 pairs" in said and "84%" in said


def test_it_asks_few_questions_of_the_database(trained, client_for, admin, annotator, django_assert_max_num_queries):
    client = client_for(admin)
    for name, bound in (("dashboard", 32), ("round", 22), ("run", 18), ("checkpoints", 10)):
        with django_assert_max_num_queries(bound):
            client.get(addresses(trained)[name])
    story.add_rankings(trained, annotator, 30)
    with django_assert_max_num_queries(32):
        client.get(addresses(trained)["dashboard"])


def test_it_starts_a_round_once_for_two_presses(project, client_for, admin, annotator):
    story.add_prompts(project)
    story.add_policy(project)
    story.add_rankings(project, annotator, 70)
    client = client_for(admin)
    dashboard = client.get(reverse("training:dashboard", args=[project.slug]))
    assert "Ready for round 1." in text_of(dashboard)
    key = re.search(r'name="idempotency_key" value="([^"]+)"', dashboard.content.decode()).group(1)
    for _press in range(2):
        client.post(reverse("training:rounds", args=[project.slug]), {"idempotency_key": key})
    assert Round.objects.filter(project=project).count() == 1


def test_it_says_why_a_round_cannot_start(project, client_for, admin):
    client = client_for(admin)
    response = client.post(reverse("training:rounds", args=[project.slug]), follow=True)
    assert "There is no promoted policy" in text_of(response)
    assert not Round.objects.exists()


def test_it_saves_training_settings(project, client_for, admin):
    client = client_for(admin)
    url = reverse("training:plan", args=[project.slug])
    form = client.get(url).context["form"]
    fields = {
        "preset": form.initial["preset"],
        "kl_coef": "0.2",
        "iterations": "",
        "epochs": "4",
        "tasks_per_round": "50",
        "comparison_percent": "40",
        "retrain_after_rankings": "0",
    }
    assert client.post(url, fields).status_code == 302
    plan = Plan.objects.get(project=project)
    assert plan.overrides == {"ppo.kl_coef": 0.2, "reward_model.epochs": 4}
    assert (plan.tasks_per_round, plan.comparison_share) == (50, 0.4)
    fields["kl_coef"] = "-1"
    response = client.post(url, fields)
    assert response.status_code == 400 and "greater than or equal to 0" in text_of(response)


def test_it_refuses_a_checkpoint_outside_the_data_directory(project, client_for, admin, tmp_path):
    url = reverse("training:checkpoints", args=[project.slug])
    for path in ("../..", "/etc", "no-such-folder", "x\0y"):
        response = client_for(admin).post(url, {"path": path, "name": "x", "role": "sft"})
        assert response.status_code == 400, path
    assert not Checkpoint.objects.exists()


def test_it_takes_no_checkpoint_of_another_project_by_its_folder(project, client_for, admin, settings):
    url = reverse("training:checkpoints", args=[project.slug])
    for folder, sentence in (
        ("checkpoints/0123", "Plumbline itself keeps its files there."),
        ("runs/1/attempt-1/output", "Plumbline itself keeps its files there."),
        ("mine", "has no config.json"),
    ):
        path = settings.PLUMBLINE_DATA_DIR / folder
        path.mkdir(parents=True, exist_ok=True)
        if folder != "mine":
            (path / "config.json").write_text("{}")
        response = client_for(admin).post(url, {"path": folder, "name": "x", "role": "sft"})
        assert response.status_code == 400 and sentence in text_of(response), folder
    assert not Checkpoint.objects.exists()


def test_it_says_that_a_run_has_ended_already(project, client_for, admin):
    run = Run.objects.create(project=project, stage="sft", state="succeeded", config={}, inputs={})
    url = reverse("training:cancel_run", args=[project.slug, run.id])
    assert "This run has ended already." in text_of(client_for(admin).post(url, follow=True))


def test_it_leads_from_each_settings_page_to_the_other(project, client_for, admin):
    ranking, training = (reverse(name, args=[project.slug]) for name in ("annotation:settings", "training:plan"))
    for here, there in ((ranking, training), (training, ranking)):
        html = client_for(admin).get(here).content.decode()
        assert f'href="{there}"' in html
        assert f'href="{here}" aria-current="page"' in html


def test_it_shows_what_an_empty_field_of_the_plan_means(project, client_for, admin):
    plans.change_plan(project, preset="demo", overrides={"ppo.kl_coef": 0.25})
    form = client_for(admin).get(reverse("training:plan", args=[project.slug])).context["form"]
    values = runs.resolve_config({}, preset="demo")
    assert form["kl_coef"].value() == 0.25
    for name, part, key in (
        ("kl_coef", "ppo", "kl_coef"),
        ("iterations", "ppo", "iterations"),
        ("epochs", "reward_model", "epochs"),
    ):
        assert f'placeholder="{values[part][key]:g}"' in str(form[name])


def test_it_counts_in_words_what_a_round_learned_from(trained, client_for, reviewer):
    counts = {"rankings": 80, "rankings_simulated": 30, "comparisons": 455, "annotators": 1, "prompts": 12480}
    Snapshot.objects.update(counts=counts)
    assert (
        "80 rankings (30 of them simulated) by 1 annotator, which make 455 comparisons; 0 demonstrations; "
        "12,480 prompts." in text_of(client_for(reviewer).get(reverse("training:round", args=[trained.slug, 1])))
    )


def test_it_makes_a_project_for_staff_only(client_for, make_user, admin):
    url = reverse("training:new_project")
    assert client_for(admin).get(url).status_code == 403
    boss = client_for(make_user("boss", is_staff=True, is_superuser=True))
    assert boss.get(url).status_code == 200
    response = boss.post(url, {"name": "Kind words", "description": ""})
    assert response.url == reverse("training:dashboard", args=["kind-words"])
    assert boss.get(response.url).status_code == 200
    assert boss.post(url, {"name": "Odd", "starting_point": "odd"}).status_code == 400
    boss.post(url, {"name": "Short texts", "starting_point": "summaries"})
    made = Project.objects.get(slug="short-texts")
    assert made.completions_per_task == 2
    assert [axis["key"] for axis in made.ranking_form["axes"]] == ["coherence", "accuracy", "coverage"]
    assert "Accuracy" in made.guidelines.get().text


def test_it_shows_what_a_run_noted(trained, client_for, reviewer):
    run = Run.objects.get(state="running")
    run.events.create(kind="log", payload={"level": "info", "message": "68 rankings <train>."}, time=run.created_at)
    html = client_for(reviewer).get(reverse("training:run", args=[trained.slug, run.id])).content.decode()
    assert "68 rankings &lt;train&gt;." in html


def test_it_renders_what_a_model_wrote_inert(trained, client_for, admin):
    run = Run.objects.get(state="running")
    bad = "<script>alert(1)</script>{{ constructor }}"
    sample = {"prompt": bad, "completion": bad, "reference": bad, "score": None, "reference_score": None}
    run.events.create(kind="samples", step=30, payload={"samples": [sample]}, time=run.created_at)
    html = client_for(admin).get(reverse("training:dashboard", args=[trained.slug])).content.decode()
    assert "<script>alert" not in html and "&lt;script&gt;alert(1)" in html


def test_it_says_how_many_of_a_reward_models_rankings_were_simulated(trained, client_for, reviewer):
    url = reverse("training:round", args=[trained.slug, 1])
    assert "simulated" not in text_of(client_for(reviewer).get(url))
    Snapshot.objects.update(counts={"rankings": 1080, "rankings_simulated": 1000})
    assert "1,000 of 1,080 rankings simulated" in text_of(client_for(reviewer).get(url))


def test_it_takes_every_setting_of_the_engine_and_says_which_line_is_wrong(project, client_for, admin):
    plans.change_plan(project, overrides={"ppo.clip_range": 0.3})
    client, url = client_for(admin), reverse("training:plan", args=[project.slug])
    form = client.get(url).context["form"]
    assert form["further"].value() == "ppo.clip_range = 0.3"
    fields = {
        "preset": form.initial["preset"],
        "tasks_per_round": "50",
        "comparison_percent": "40",
        "retrain_after_rankings": "0",
    }
    posted = client.post(url, {**fields, "kl_coef": "0.2", "further": "ppo.clip_range = 0.1\n\nrun.dtype = float32\n"})
    assert posted.status_code == 302
    assert Plan.objects.get(project=project).overrides == {
        "ppo.kl_coef": 0.2,
        "ppo.clip_range": 0.1,
        "run.dtype": "float32",
    }
    for further, said in (
        ("ppo.clip_range 0.1", "Line 1 must read: section.key = value."),
        ("ppo.clip_rnge = 0.1", "clip_range"),
        ("ppo.kl_coef = 0.1", "has a field of its own"),
        ("inputs.policy = /etc", "Inputs are chosen by digest"),
        ("ppo.clip_range = " + "[" * 5000, "clip_range"),
    ):
        answer = client.post(url, {**fields, "further": further})
        assert answer.status_code == 400 and said in text_of(answer), further
    assert len(Plan.objects.get(project=project).overrides) == 3
