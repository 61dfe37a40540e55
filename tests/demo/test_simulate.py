"""Simulated annotators over the real HTTP API, the demo project, and what both say when something is missing."""

import io
import json
import random

import pytest
from django.core.management import CommandError, call_command

from annotation.messages import messages_digest
from annotation.models import Assignment, Membership, Prompt, Ranking, Slot, Task
from plumbline.demo import project as demo
from plumbline.demo import world
from plumbline.demo.annotators import SimulatedAnnotator
from plumbline.demo.simulate import Player, SimulationError, play
from plumbline.models import ApiToken
from tests.training.fake_engine import write_checkpoint
from training import checkpoints

PROMPTS = 30


def completion_rows(specs, per_prompt=4):
    rng = random.Random(7)
    for spec in specs:
        for index in range(per_prompt):
            yield {
                "prompt_digest": messages_digest([{"role": "user", "content": spec.text}]),
                "index": index,
                "message": {"role": "assistant", "content": world.story(spec.combination, rng)},
                "finish_reason": "stop",
                "generator": {"kind": "checkpoint", "digest": "d" * 64},
            }


@pytest.fixture
def starter(tmp_path, settings, monkeypatch):
    """A stand-in for the starter: weights that say nothing, and stories told by the grammar itself."""
    settings.PLUMBLINE_DATA_DIR = tmp_path / "data"
    settings.PLUMBLINE_DATA_DIR.mkdir()
    folder = tmp_path / "starter"
    write_checkpoint(folder)
    lines = [json.dumps(row) + "\n" for row in completion_rows(world.prompts("reward")[:PROMPTS])]
    folder.with_name(demo.FIRST_COMPLETIONS).write_text("".join(lines))
    monkeypatch.setattr(demo, "STARTER", folder)
    # All 9,216 prompts would be most of these tests' time.
    few = {pool: world.prompts(pool)[:PROMPTS] for pool in world.POOLS}
    monkeypatch.setattr(demo.world, "prompts", lambda pool: few[pool])
    return folder


def run(*arguments):
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_it_loads_the_demo_once_however_often_it_is_asked(starter):
    assert f"{PROMPTS} tasks are waiting" in run("demo")
    said = run("demo")
    assert f"{PROMPTS} tasks are waiting" in said
    project = demo.Project.objects.get(slug="stories")
    assert Task.objects.count() == PROMPTS and Slot.objects.count() == PROMPTS
    assert {task.entries.count() for task in Task.objects.all()} == {4}
    assert Prompt.objects.count() == 4 * PROMPTS
    assert set(Prompt.objects.values_list("pool", flat=True)) == set(world.POOLS)
    assert checkpoints.promoted(project).role == "sft" and checkpoints.sft_policy(project) is not None
    assert "kind ending" in project.guidelines.get().text
    assert project.plan.preset == "demo"
    assert project.memberships.get().user.username == "admin"


@pytest.mark.django_db
def test_it_says_what_is_missing_without_the_starter(starter):
    starter.with_name(demo.FIRST_COMPLETIONS).unlink()
    with pytest.raises(CommandError, match=r"lacks starter_completions\.jsonl"):
        run("demo")
    assert not demo.Project.objects.exists()


@pytest.mark.django_db
def test_it_has_more_answers_written_until_enough_tasks_wait(starter, monkeypatch):
    asked = []

    def generate(project, policy, *, prompts, seed):
        asked.append(len(prompts))
        texts = {spec.text: spec for spec in world.prompts("reward")[:PROMPTS]}
        return list(completion_rows([texts[prompt.messages[0]["content"]] for prompt in prompts]))

    monkeypatch.setattr(demo, "generate", generate)
    assert "40 tasks are waiting" in run("demo", "--tasks", "40")
    assert asked == [10]
    run("demo", "--tasks", "40")
    assert asked == [10]


@pytest.mark.django_db(transaction=True)
def test_it_ranks_through_the_api_and_marks_every_ranking_as_simulated(starter, live_server):
    run("demo")
    said = run("simulate", "stories", "--rankings", "20", "--annotators", "3", "--url", live_server.url)
    assert said.startswith("20 simulated rankings in ")
    assert "Two of these annotators order" in said and "“style”" in said
    rankings = list(Ranking.objects.select_related("annotator"))
    assert len(rankings) == 20 and {ranking.source for ranking in rankings} == {"simulated"}
    assert Membership.objects.filter(simulated=True).count() == 3
    assert not ApiToken.objects.filter(name="simulate", revoked_at=None).exists()
    assert not Assignment.objects.filter(state="leased").exists()
    # Each order is what that annotator thinks of the cards as it was shown them.
    for ranking in rankings:
        seed = int(ranking.annotator.username.removeprefix("simulated-"))
        texts = {str(entry.completion_id): entry.completion.message["content"] for entry in ranking.task.entries.all()}
        shown = ranking.presented_order
        prompt = ranking.task.prompt.messages[0]["content"]
        order = SimulatedAnnotator(seed, "style").rank(prompt, [texts[key] for key in shown])
        groups = [{shown[index] for index in group} for group in order]
        assert [set(group) & set(shown) for group in ranking.order] == groups


@pytest.mark.django_db(transaction=True)
def test_it_says_how_far_it_came_when_the_queue_is_empty(starter, live_server):
    run("demo")
    said = run("simulate", "stories", "--rankings", "100", "--annotators", "2", "--url", live_server.url)
    assert f"The queue is empty: {PROMPTS} of 100 rankings were made." in said and "--replenish" in said
    assert Ranking.objects.count() == PROMPTS
    said = run("simulate", "stories", "--until-empty", "--annotators", "2", "--url", live_server.url)
    assert said.startswith("0 simulated rankings")


@pytest.mark.django_db
def test_it_says_what_to_do_when_no_server_answers(starter, monkeypatch):
    monkeypatch.setattr("plumbline.demo.simulate.FIRST_WAIT_SECONDS", 0.0)
    run("demo")
    with pytest.raises(CommandError, match=r"No Plumbline server answers at http://127\.0\.0\.1:9; start it with"):
        run("simulate", "stories", "--annotators", "1", "--url", "http://127.0.0.1:9")
    assert not ApiToken.objects.filter(revoked_at=None).exists()


@pytest.mark.django_db
def test_it_refuses_projects_and_numbers_that_make_no_sense(starter):
    with pytest.raises(CommandError, match="There is no project nowhere"):
        run("simulate", "nowhere")
    run("demo")
    with pytest.raises(CommandError, match="--rankings must be from 1"):
        run("simulate", "stories", "--rankings", "0")
    with pytest.raises(CommandError, match="--annotators must be from 1 to 64"):
        run("simulate", "stories", "--annotators", "1000")


@pytest.mark.django_db
def test_it_never_ranks_in_the_name_of_a_person(starter, make_user):
    run("demo")
    project = demo.Project.objects.get(slug="stories")
    demo.projects.add_member(project, make_user("simulated-0"), role="annotator")
    with pytest.raises(CommandError, match="simulated-0 is a person in this project"):
        run("simulate", "stories", "--annotators", "1")


@pytest.mark.django_db(transaction=True)
def test_it_does_not_guess_when_another_program_answers(live_server):
    player = Player(name="x", token="wrong", annotator=SimulatedAnnotator(0, "style"))
    with pytest.raises(SimulationError, match="does not know this command's tokens"):
        play([player], url=live_server.url, project="stories", rankings=1)
