"""The sentence at the top of the dashboard, from figures alone."""

import datetime

import pytest

from training.models import Checkpoint, Round, Run
from training.standing import Figures, RoundFigures, Share, bounds, compose, interval, loop_steps, seconds_left

POLICY = Checkpoint(name="Starter", state="promoted", role="sft")
READY = {"prompts": 1920, "policy": POLICY, "waiting": 400}


def active(number=1, state="running", **fields):
    return Round(number=number, state=state, **fields)


def sentence(**figures):
    return compose(Figures(**figures)).sentence


def test_it_says_what_the_design_says():
    standing = compose(
        Figures(
            **READY,
            people=700,
            new_people=312,
            since=3,
            rounds=3,
            newest=active(3, "succeeded"),
            last=RoundFigures(number=3, accuracy=0.741),
            agreement=Share(value=0.76, low=0.7, high=0.81, pairs=200),
        )
    )
    assert standing.sentence == (
        "312 new rankings since round 3. Reward model agrees with people 74%, people with each other 76%. "
        "Ready for round 4."
    )
    assert (standing.action, standing.start_number, standing.start_refused) == ("start", 4, "")


@pytest.mark.parametrize(
    ("figures", "action", "words"),
    [
        ({}, "import", "Import prompts to begin"),
        ({"prompts": 9}, "policy", "9 prompts are in. Next, add the model"),
        ({"prompts": 9, "policy": POLICY}, "answers", "write its first answers"),
        (READY, "rank", "400 tasks are waiting to be ranked. About 60 rankings teach the model a style."),
        ({**READY, "people": 12, "new_people": 12}, "rank", "12 rankings so far; about 60"),
        ({**READY, "people": 60, "new_people": 60}, "start", "60 rankings so far. Ready for round 1."),
        ({**READY, "newest": active(1, "preparing"), "rounds": 1}, "wait", "Round 1 is starting."),
        ({**READY, "newest": active(1), "newest_stage": "PPO", "rounds": 1}, "wait", "Round 1 is under way: PPO."),
        ({**READY, "newest": active(0), "trains": False}, "wait", "The model is writing answers."),
        (
            {**READY, "newest": active(2, "failed", message="The disk is full."), "newest_stage": "PPO", "rounds": 2},
            "retry",
            "Round 2 stopped at PPO. The disk is full.",
        ),
        (
            {**READY, "people": 80, "since": 1, "rounds": 1, "newest": active(1, "succeeded")},
            "rank",
            "No new rankings since round 1.",
        ),
    ],
)
def test_it_names_the_next_thing_to_do(figures, action, words):
    standing = compose(Figures(**figures))
    assert standing.action == action
    assert words in standing.sentence


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({}, "There are no prompts yet."),
        ({"prompts": 9}, "There is no model to train yet."),
        (
            {**READY, "people": 3, "comparisons": 9},
            "There are 9 comparisons to learn from and a round needs at least 10; rank some more answers first.",
        ),
        ({**READY, "people": 90, "newest": active(2), "rounds": 2}, "Round 2 is under way."),
    ],
)
def test_it_says_why_a_round_cannot_start(figures, reason):
    assert compose(Figures(**figures)).start_refused == reason


def test_it_never_calls_simulated_rankings_peoples():
    only = sentence(**READY, simulated=300, new_simulated=300)
    assert only == "300 simulated rankings so far. Ready for round 1."
    mixed = sentence(
        **READY,
        people=100,
        simulated=300,
        new_people=12,
        new_simulated=300,
        since=1,
        rounds=1,
        newest=active(1, "succeeded"),
        last=RoundFigures(number=1, accuracy=0.7),
        agreement_simulated=Share(value=0.73, pairs=9),
    )
    assert mixed == (
        "312 new rankings (300 of them simulated) since round 1. Reward model agrees with unseen rankings 70%, "
        "simulated annotators with each other 73%. Ready for round 2."
    )


def test_it_puts_peoples_judgment_before_the_reward_models_word():
    blind = Share(value=0.71, low=0.66, high=0.76, pairs=240)
    word = Share(value=0.84, low=0.79, high=0.88, pairs=256)
    steps = {
        step.name: step for step in loop_steps(Figures(**READY, last=RoundFigures(number=1, blind=blind, word=word)))
    }
    assert steps["Comparison"].figure == "71%" and "66–76%" in steps["Comparison"].note
    steps = {step.name: step for step in loop_steps(Figures(**READY, last=RoundFigures(number=1, word=word)))}
    assert steps["Comparison"].figure == "84%" and "reward model’s word" in steps["Comparison"].note.replace("'", "’")


def test_it_marks_the_step_that_the_round_is_at():
    for stage, name in (("reward model", "Reward model"), ("PPO", "Policy"), ("evaluation", "Comparison")):
        steps = loop_steps(Figures(**READY, people=80, newest=active(1), newest_stage=stage, rounds=1))
        assert [step.name for step in steps if step.state == "current"] == [name]
        steps = loop_steps(Figures(**READY, people=80, newest=active(1, "failed"), newest_stage=stage, rounds=1))
        assert [step.name for step in steps if step.state == "failed"] == [name]


def test_it_writes_shares_with_their_interval():
    share = Share(value=0.714, low=0.655, high=0.764, pairs=9)
    assert (interval(share), bounds(share)) == ("71% (66–76%)", "66–76%")
    assert interval(Share(value=0.5)) == "50%"
    assert Share.read({"agreement": None, "pairs": 0}, "agreement") is None


@pytest.mark.django_db
def test_it_guesses_the_time_left_from_the_pace(project):
    run = Run.objects.create(project=project, stage="ppo", state="running", step=10, total_steps=40)
    assert seconds_left(run) is None
    start = datetime.datetime(2030, 1, 1, 12, 0, tzinfo=datetime.UTC)
    for step in range(1, 11):
        time = start + datetime.timedelta(seconds=2 * step)
        run.metrics.create(step=step, values={"score_mean": 0.0}, time=time)
    assert seconds_left(run) == 60  # 2 s a step, 30 steps to go
    run.state = "succeeded"
    assert seconds_left(run) is None
    run.state, run.step = "running", 40
    assert seconds_left(run) is None
