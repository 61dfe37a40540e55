"""Rounds: from the judgments to new tasks, over an engine that only pretends."""

import json

import pytest

from annotation import assignment, completions, rankings
from annotation.models import Prompt, PromptSet, Purpose, Task
from training import checkpoints, generation, plans, rounds, runs
from training.models import Checkpoint, Round, RoundState, Run, RunState

pytestmark = pytest.mark.django_db


@pytest.fixture
def plan(project):
    return plans.change_plan(project, tasks_per_round=6, comparison_share=0.3, overrides={"ppo.kl_coef": 0.2})


@pytest.fixture
def ranked(project, prompts, annotator):
    """Two tasks of four answers, ranked: 12 comparisons."""
    for prompt in prompts[:2]:
        rows = [
            {
                "prompt": prompt,
                "message": {"role": "assistant", "content": f"Answer {number}."},
                "generator": {"kind": "import"},
            }
            for number in range(4)
        ]
        assignment.queue_task(project, prompt=prompt, completions=completions.add_completions(project, rows=rows))
    for number in range(2):
        leased = assignment.next_assignment(project, annotator=annotator)
        order = [[card] for card in leased.presented_order]
        rankings.submit_ranking(leased, annotator=annotator, client_id=f"c{number}", order=order)


@pytest.fixture
def started(project, plan, sft, ranked, admin):
    return rounds.start_round(project, created_by=admin)


@pytest.fixture
def play(supervise):
    """play(round, "scenario", …): lets the round's runs play these scenarios; "succeed" when there are no more."""

    def go(round, *scenarios):
        scenarios = list(scenarios)
        for _turn in range(20):
            rounds.advance(round.id)
            round.refresh_from_db()
            waiting = Run.objects.filter(round=round, state=RunState.QUEUED).first()
            if waiting is None:
                return round
            supervise(waiting, scenarios.pop(0) if scenarios else "succeed")
        raise AssertionError("the round does not end")

    return go


def test_it_goes_from_judgments_to_new_tasks(started, play, project, sft):
    round = play(started)
    assert (round.state, round.message, round.number) == (RoundState.SUCCEEDED, "", 1)
    stages = [run.stage for run in round.runs.order_by("position")]
    assert stages == ["reward_model", "ppo", "evaluate", "generate", "generate"]
    assert round.snapshot.counts["comparisons"] == 12
    policy = Checkpoint.objects.get(project=project, role="policy")
    assert (policy.parent, policy.figures["win_rate"]) == (sft, 0.7)
    assert round.result["win_rate"] == 0.7
    assert round.result["validation_accuracy"] == 0.7
    assert (round.result["policy"], round.result["base_policy"]) == (policy.digest, sft.digest)
    made = Task.objects.filter(batch=str(round.id))
    assert made.filter(purpose=Purpose.TRAIN).count() == round.result["tasks"] == 4
    assert made.filter(purpose=Purpose.EVAL).count() == round.result["comparisons"] == 2


def test_it_compares_two_answers_of_each_policy_on_eval_prompts(started, play):
    round = play(started)
    for task in Task.objects.filter(batch=str(round.id), purpose=Purpose.EVAL):
        texts = [completion.message["content"] for completion in task.completions.all()]
        assert task.prompt.pool == "eval"
        assert len(texts) == 4
        assert sum(text.startswith("ppo answers") for text in texts) == 2
        assert sum(text.startswith("start answers") for text in texts) == 2


def test_it_gives_each_stage_the_right_artifacts_and_settings(started, play, sft):
    round = play(started)
    runs_by_stage = {run.stage: run for run in round.runs.order_by("-position")}
    reward_model = runs_by_stage["reward_model"]
    assert reward_model.inputs == {
        "policy": sft.digest,
        "rankings": round.snapshot.digest,
        "prompts": round.snapshot.digest,
    }
    assert reward_model.config["inputs"]["rankings"] == f"{round.snapshot.uri}/rankings.jsonl"
    ppo = runs_by_stage["ppo"]
    assert ppo.inputs["policy"] == ppo.inputs["ref_policy"] == sft.digest
    assert ppo.inputs["reward_model"] == reward_model.output_digest
    assert ppo.config["ppo"]["kl_coef"] == 0.2
    evaluate = runs_by_stage["evaluate"]
    assert (evaluate.inputs["policy"], evaluate.inputs["ref_policy"]) == (ppo.output_digest, sft.digest)
    assert runs_by_stage["generate"].config["generate"]["samples_per_prompt"] == 4


def test_it_starts_the_next_round_from_the_promoted_policy_and_keeps_the_reference(started, play, project, sft):
    first = play(started)
    policy = Checkpoint.objects.get(digest=first.result["policy"])
    checkpoints.promote(policy)
    second = play(rounds.start_round(project))
    ppo = second.runs.get(stage="ppo")
    assert (ppo.inputs["policy"], ppo.inputs["ref_policy"]) == (policy.digest, sft.digest)
    assert second.number == 2


def test_it_asks_about_the_prompts_that_were_asked_least(started, play, ranked, prompts):
    round = play(started)
    asked = {task.prompt_id for task in Task.objects.filter(batch=str(round.id), purpose=Purpose.TRAIN)}
    assert asked == {prompt.id for prompt in prompts[2:6]}


@pytest.mark.parametrize("doubled", [0, 1, 2, 3, 4, 5])
def test_it_bears_every_message_twice(started, play, supervise, doubled):
    for _stage in range(doubled):
        rounds.advance(started.id)
        for run in Run.objects.filter(round=started, state=RunState.QUEUED):
            supervise(run, "succeed")
            supervise(run, "succeed")
    rounds.advance(started.id)
    rounds.advance(started.id)
    round = play(started)
    assert (round.state, round.runs.count()) == (RoundState.SUCCEEDED, 5)
    assert Task.objects.filter(batch=str(round.id)).count() == 6
    assert Run.objects.filter(attempts=1).count() == 5


def test_it_fails_with_its_stage_and_is_taken_up_again_there(started, play, admin):
    round = play(started, "succeed", "guard")
    assert round.state == RoundState.FAILED
    assert "entropy fell" in round.message
    rounds.retry(round, actor=admin)
    assert round.state == RoundState.RUNNING
    round = play(round)
    assert round.state == RoundState.SUCCEEDED
    assert [run.attempts for run in round.runs.order_by("position")] == [1, 2, 1, 1, 1]


def test_it_is_cancelled_with_its_run(started, play, admin, project):
    rounds.advance(started.id)
    rounds.cancel(started, actor=admin)
    assert started.state == RoundState.CANCELLED
    assert started.runs.get().state == RunState.CANCELLED
    with pytest.raises(rounds.RoundError, match="ended already"):
        rounds.cancel(started)
    assert rounds.start_round(project).number == 2


def test_it_ends_when_its_run_is_cancelled(started, play):
    rounds.advance(started.id)
    runs.request_cancel(started.runs.get())
    assert play(started).state == RoundState.CANCELLED


def test_it_refuses_a_second_active_round(started, project):
    with pytest.raises(rounds.RoundError, match="running already"):
        rounds.start_round(project)
    assert Round.objects.count() == 1


def test_it_answers_the_same_key_with_the_same_round(project, plan, sft, ranked):
    first = rounds.start_round(project, idempotency_key="k")
    assert rounds.start_round(project, idempotency_key="k") == first


def test_it_refuses_to_start_without_a_policy(project, plan, ranked):
    with pytest.raises(rounds.RoundError, match="no promoted policy"):
        rounds.start_round(project)


def test_it_refuses_to_start_with_too_few_comparisons(project, plan, sft, prompts):
    with pytest.raises(rounds.RoundError, match="There are 0 comparisons to learn from and a round needs at least 10"):
        rounds.start_round(project)
    assert not Round.objects.exists()


@pytest.mark.parametrize(
    "overrides", [{"ppo.kl_cof": 1}, {"ppo.batch_size": 0}, {"inputs.policy": "/etc"}, {"ppo.kl_coef": 10**400}]
)
def test_it_refuses_wrong_settings_before_it_makes_anything(project, plan, sft, ranked, overrides):
    with pytest.raises(rounds.RoundError):
        rounds.start_round(project, overrides=overrides)
    assert not Round.objects.exists()


def test_it_promotes_by_itself_where_the_plan_says_so(started, play, project):
    plans.change_plan(project, auto_promote=True)
    round = play(started)
    assert checkpoints.promoted(project).digest == round.result["policy"]
    assert round.result["auto_promoted"]


def test_it_never_promotes_by_itself_on_prompts_that_training_saw(started, play, project, monkeypatch):
    plans.change_plan(project, auto_promote=True)
    before, evaluation = checkpoints.promoted(project).digest, rounds.evaluation
    monkeypatch.setattr(rounds, "evaluation", lambda round: {**evaluation(round), "trainable_share": 0.25})
    round = play(started)
    assert round.result["win_rate_low"] > 0.5
    assert checkpoints.promoted(project).digest == before != round.result["policy"]
    assert "auto_promoted" not in round.result


def test_it_lets_the_policy_answer_first_prompts(project, plan, sft, prompts, play):
    round = play(rounds.first_completions(project))
    assert (round.state, round.number) == (RoundState.SUCCEEDED, 0)
    made = Task.objects.filter(batch=str(round.id))
    assert made.count() == 6
    # The fourth answer of the pretended engine is empty, and nobody can rank an empty answer.
    assert {task.completions.count() for task in made} == {3}


def test_it_starts_by_itself_after_enough_new_rankings(project, plan, sft, ranked, play):
    plans.change_plan(project, retrain_after_rankings=3)
    rounds.reconcile()
    assert not Round.objects.exists()
    plans.change_plan(project, retrain_after_rankings=2)
    rounds.reconcile()
    rounds.reconcile()
    round = play(Round.objects.get())
    assert round.state == RoundState.SUCCEEDED
    rounds.reconcile()
    assert Round.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "generated", "tasks"),
    [({"comparison_share": 0}, 1, (6, 0)), ({"tasks_per_round": 0}, 0, (None, None))],
)
def test_it_ends_well_where_the_plan_asks_for_no_comparisons_or_no_tasks(
    project, plan, sft, ranked, play, changes, generated, tasks
):
    plans.change_plan(project, **changes)
    round = play(rounds.start_round(project))
    assert (round.state, round.message) == (RoundState.SUCCEEDED, "")
    assert round.runs.filter(stage="generate").count() == generated
    assert (round.result.get("tasks"), round.result.get("comparisons")) == tasks
    assert round.result["win_rate"] == 0.7


def test_it_ends_well_where_no_prompt_may_be_compared(project, plan, sft, ranked, prompts, play):
    Prompt.objects.update(pool="sft")
    round = play(rounds.start_round(project))
    assert round.state == RoundState.SUCCEEDED, round.message
    assert (round.result["tasks"], round.result["comparisons"]) == (6, 0)


def test_an_earlier_choice_of_nothing_does_not_stand(started, data_dir):
    folder = data_dir / "rounds" / str(started.id)
    folder.mkdir(parents=True)
    (folder / "comparisons.jsonl").touch()
    (folder / "prompts.jsonl").touch()
    uri, _digest = generation.prompt_file(started, "comparisons")
    assert len((data_dir / uri).read_text().splitlines()) == 2


def test_first_answers_are_refused_where_none_are_asked_for(project, plan, sft, prompts):
    plans.change_plan(project, tasks_per_round=0)
    with pytest.raises(rounds.RoundError, match="no prompts to ask about"):
        rounds.first_completions(project)
    assert not Round.objects.exists()


def test_it_chooses_no_prompt_for_both_kinds(started):
    rounds.advance(started.id)
    chosen = generation.choose_prompts(Round.objects.get(id=started.id))
    names = [prompt.digest for kind in chosen.values() for prompt in kind]
    assert len(names) == len(set(names)) == 6


def test_it_gives_the_engine_only_what_the_file_format_says(started, play, data_dir):
    round = play(started)
    uri, _digest = generation.prompt_file(round, "prompts")
    rows = [json.loads(line) for line in (data_dir / uri).read_text().splitlines()]
    assert {tuple(sorted(row)) for row in rows} == {("digest", "group", "messages", "pool")}


def test_it_is_taken_up_again_with_the_settings_of_today(started, play, admin, project):
    round = play(started, "succeed", "guard")
    plans.change_plan(project, overrides={"ppo.kl_coef": 0.7})
    rounds.retry(round, actor=admin)
    ppo = round.runs.get(stage="ppo")
    assert ppo.config["ppo"]["kl_coef"] == 0.7
    assert ppo.config["inputs"]["reward_model"]
    assert play(round).state == RoundState.SUCCEEDED


def test_it_goes_on_from_its_resume_point_only_with_the_same_settings(started, play, admin, project):
    round = play(started, "succeed", "save_then_crash", "save_then_crash", "usage")
    ppo = round.runs.get(stage="ppo")
    rounds.retry(round, actor=admin)
    assert ppo.resume_points.exists()
    round = play(round, "usage")
    plans.change_plan(project, overrides={"ppo.kl_coef": 0.7})
    rounds.retry(round, actor=admin)
    assert not ppo.resume_points.exists()


def test_it_ends_well_where_a_prompt_set_was_retired_meanwhile(started, play, project, prompts):
    rounds.advance(started.id)
    round = Round.objects.get(id=started.id)
    generation.prompt_file(round, "prompts")
    retired = PromptSet.objects.create(project=project, name="retired", version=1, file_sha256="1" * 64, active=False)
    Prompt.objects.filter(pk=prompts[3].pk).update(prompt_set=retired)
    round = play(round)
    assert round.state == RoundState.SUCCEEDED, round.message
    assert (round.result["tasks"], round.result["comparisons"], round.result["retired"]) == (3, 2, 1)


def test_it_starts_no_run_of_a_round_that_was_cancelled_at_this_moment(started, admin):
    rounds.advance(started.id)
    Run.objects.filter(round=started).delete()
    seen = Round.objects.get(id=started.id)
    rounds.cancel(started, actor=admin)
    rounds.start_stage(seen, 0)
    assert not Run.objects.filter(round=started).exists()


def test_it_fails_in_words_where_the_answers_are_damaged(started, play, data_dir, monkeypatch):
    def damaged(run):
        raise KeyError("message")

    monkeypatch.setattr(generation, "read_completions", damaged)
    round = play(started)
    assert (round.state, "could not be queued" in round.message) == (RoundState.FAILED, True)


def test_it_counts_a_prompt_of_two_sets_as_asked_in_both(started, project, ranked, prompts):
    asked = set(Task.objects.values_list("prompt__digest", flat=True))
    newer = PromptSet.objects.create(project=project, name="stories", version=2, file_sha256="2" * 64)
    Prompt.objects.bulk_create(
        Prompt(prompt_set=newer, digest=p.digest, messages=p.messages, pool=p.pool, group=p.group, position=p.position)
        for p in prompts
    )
    chosen = generation.least_asked(started, ["reward"], 4, taken=set())
    assert {prompt.digest for prompt in chosen}.isdisjoint(asked)


def test_it_writes_its_prompts_while_another_pass_writes_them_too(tmp_path, prompts):
    path = tmp_path / "rounds" / "prompts.jsonl"
    path.parent.mkdir()

    def while_another_writes():
        generation.write_prompts(path, prompts[:1])
        yield prompts[0]

    generation.write_prompts(path, while_another_writes())
    assert json.loads(path.read_text())["digest"] == prompts[0].digest
    assert [entry.name for entry in path.parent.iterdir()] == ["prompts.jsonl"]


def test_it_keeps_the_settings_that_it_began_with(started, play, project):
    rounds.advance(started.id)
    plans.change_plan(project, tasks_per_round=3, overrides={"ppo.kl_coef": 0.9})
    round = play(started)
    assert round.runs.get(stage="ppo").config["ppo"]["kl_coef"] == 0.2
    assert Task.objects.filter(batch=str(round.id)).count() == 6
