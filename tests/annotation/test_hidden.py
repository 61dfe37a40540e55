"""Checks with a known answer and repeats: asked like real tasks, counted like neither."""

import io
import json
from pathlib import Path

import pytest

from annotation import assignment, hidden, known_answers, rankings
from annotation.models import AuditEvent, KnownAnswer, Purpose, Ranking, Slot, SlotState, Task

pytestmark = pytest.mark.django_db


@pytest.fixture
def dice(monkeypatch):
    """dice(0.0): what the server's next throws are."""

    def throw(value):
        monkeypatch.setattr(assignment.random_source, "random", lambda: value)

    throw(1.0)
    return throw


@pytest.fixture
def check(make_prompts, make_task, admin):
    """A gold task with a known answer."""
    task = make_task(make_prompts("Known?", name="known")[0], purpose="gold")
    ids = [[str(entry.completion_id)] for entry in task.entries.all()]
    known_answers.set_known_answer(task, order=ids, actor=admin)
    return task


def rank(lease, annotator, client_id):
    order = [[key] for key in lease.presented_order]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order)[0]


def rank_next(project, annotator, client_id):
    return rank(assignment.next_assignment(project, annotator=annotator), annotator, client_id)


def test_it_asks_a_check_of_everybody_once(project, annotator, second_annotator, make_tasks, check, dice):
    make_tasks(4)
    dice(0.0)
    for person in (annotator, second_annotator):
        assert rank_next(project, person, "1").task == check
        assert rank_next(project, person, "2").task.purpose == Purpose.TRAIN
    assert check.slots.count() == 2


def test_it_asks_as_often_as_the_project_wants(project, annotator, make_tasks, check, dice):
    make_tasks(2)
    dice(0.11)  # the share is 0.1
    assert assignment.next_assignment(project, annotator=annotator).task.purpose == Purpose.TRAIN


def test_it_asks_nothing_hidden_where_no_real_task_waits(project, annotator, check, dice):
    """Or else the last tasks of a project would be known as checks."""
    dice(0.0)
    assert assignment.next_assignment(project, annotator=annotator) is None


def test_a_check_without_a_known_answer_is_not_asked(project, annotator, make_tasks, make_prompts, make_task, dice):
    make_task(make_prompts("Unknown?", name="known")[0], purpose="gold")
    make_tasks(1)
    dice(0.0)
    assert assignment.next_assignment(project, annotator=annotator).task.purpose == Purpose.TRAIN


def test_a_check_given_back_comes_again_and_to_nobody_by_the_queue(
    project, annotator, second_annotator, make_tasks, check, dice
):
    make_tasks(1)
    dice(0.0)
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.release(lease, annotator=annotator)
    assert Slot.objects.get(pk=lease.slot_id).state == SlotState.CLOSED
    dice(1.0)
    other = assignment.next_assignment(project, annotator=second_annotator)
    assert other.task.purpose == Purpose.TRAIN
    assignment.release(other, annotator=second_annotator)
    dice(0.0)
    again = assignment.next_assignment(project, annotator=annotator)
    assert (again.task, again.presented_order) == (check, lease.presented_order)


def test_a_check_handed_in_late_counts_like_a_real_task(project, annotator, make_tasks, check, dice):
    """A real task that nobody took counts when it comes late; a check that did not would be known by that."""
    make_tasks(1)
    dice(0.0)
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=lease.lease_expires_at)
    assert rank(lease, annotator, "late").is_counted
    assert Slot.objects.get(pk=lease.slot_id).state == SlotState.DONE


def test_a_heartbeat_takes_a_check_up_again(project, annotator, make_tasks, check, dice):
    make_tasks(1)
    dice(0.0)
    lease = assignment.next_assignment(project, annotator=annotator)
    assignment.expire_leases(now=lease.lease_expires_at)
    assert assignment.heartbeat(lease, annotator=annotator).state == "leased"


def shape(value):
    """A JSON value with every text, number and time replaced by its kind and size."""
    if isinstance(value, dict):
        return {key: shape(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value]
    return type(value).__name__


def test_nothing_that_reaches_an_annotator_tells_a_check_apart(
    api_for, client_for, project, annotator, second_annotator, make_tasks, check, dice
):
    make_tasks(2)
    real = api_for(annotator).post(f"/api/v1/projects/{project.slug}/next/")
    dice(0.0)
    hidden_one = api_for(second_annotator).post(f"/api/v1/projects/{project.slug}/next/")
    assert hidden_one.json()["prompt"][0]["content"] == "Known?"
    assert shape(real.json()) == shape(hidden_one.json())
    assert real.headers.keys() == hidden_one.headers.keys()
    answers = []
    for person, claimed in ((annotator, real), (second_annotator, hidden_one)):
        body = {"client_id": "1", "ranking": [[card["id"]] for card in claimed.json()["completions"]]}
        url = f"/api/v1/assignments/{claimed.json()['assignment']['id']}/ranking/"
        answers.append(api_for(person).post(url, json.dumps(body), content_type="application/json"))
    assert shape(answers[0].json()) == shape(answers[1].json())
    assert answers[1].json()["counted"] is True
    for person in (annotator, second_annotator):
        for page in ("rank", "work"):
            html = client_for(person).get(f"/projects/{project.slug}/{page}/").content.decode()
            assert "gold" not in html and str(check.pk) not in html


def test_a_check_takes_no_longer_than_a_real_task(
    project, annotator, second_annotator, make_tasks, check, dice, django_assert_max_num_queries
):
    """In queries: three more, of one indexed row each. The dice are thrown after looking, whichever way they fall."""
    make_tasks(2)
    counts = []
    for person, throw in ((annotator, 1.0), (second_annotator, 0.0)):
        dice(throw)
        with django_assert_max_num_queries(20) as captured:
            assignment.next_assignment(project, annotator=person)
        counts.append(len(captured))
    assert 0 <= counts[1] - counts[0] <= 3


def test_it_refuses_a_known_answer_that_says_nothing(check, admin, task):
    ids = [str(entry.completion_id) for entry in check.entries.all()]
    for order in ([ids], [[ids[0]]], [[ids[0]], [ids[0]]], [[ids[0]], ["x"]], "x", [["a"], []], None):
        with pytest.raises(assignment.TaskError):
            known_answers.set_known_answer(check, order=order, actor=admin)
    with pytest.raises(assignment.TaskError, match="gold or practice only"):
        known_answers.set_known_answer(task, order=[[ids[0]], [ids[1]]], actor=admin)
    known_answers.set_known_answer(check, order=[[ids[1]], [ids[0]]], actor=admin)
    assert KnownAnswer.objects.get(task=check).order == [[ids[1]], [ids[0]]]
    assert AuditEvent.objects.filter(action__startswith="known_answer.").count() == 2


def test_a_check_is_made_of_a_task_that_is_done(project, annotator, second_annotator, make_tasks, admin, dice):
    make_tasks(3)
    first = assignment.next_assignment(project, annotator=annotator)
    order = [[key] for key in first.presented_order]
    with pytest.raises(assignment.TaskError, match="still being ranked"):
        known_answers.make_check(first.task, order=order, actor=admin)
    rank(first, annotator, "1")
    made = known_answers.make_check(first.task, order=order, actor=admin)
    assert known_answers.make_check(first.task, order=order, actor=admin) == made
    dice(0.0)
    # Whoever has ranked these very answers is not asked again.
    assert assignment.next_assignment(project, annotator=annotator).task.purpose == Purpose.TRAIN
    assert assignment.next_assignment(project, annotator=second_annotator).task == made


def test_it_takes_a_known_answer_with_a_task(api_for, project, admin, prompt, make_completions):
    ids = [str(completion.pk) for completion in make_completions(prompt, "a", "b")]
    api = api_for(admin)
    url = f"/api/v1/projects/{project.slug}/tasks/"
    body = {"completions": ids, "purpose": "gold", "known_answer": [[ids[1]], [ids[0]]]}
    assert api.post(url, body, format="json").status_code == 201
    assert Task.objects.get().known_answer.order == [[ids[1]], [ids[0]]]
    refused = api.post(url, {**body, "known_answer": [[ids[1]], ["x"]]}, format="json")
    assert refused.status_code == 400 and "known_answer" in refused.json()["error"]["fields"]
    assert Task.objects.count() == 1


def test_it_repeats_ones_own_task_after_a_while(project, annotator, make_tasks, dice, monkeypatch):
    monkeypatch.setattr(hidden, "RANKED_BEFORE_REPEATS", 4)
    monkeypatch.setattr(hidden, "RANKED_BETWEEN", 3)
    make_tasks(8)
    project.repeat_share = 0.05
    dice(0.12)  # past the checks' 0.1, within the repeats' 0.05
    done = [rank_next(project, annotator, str(number)) for number in range(4)]
    assert {ranking.task.purpose for ranking in done} == {Purpose.TRAIN}
    lease = assignment.next_assignment(project, annotator=annotator)
    assert lease.is_repeat and lease.task.purpose == Purpose.REPEAT
    assert lease.task.source == done[0].task  # the only one with three others since
    repeat = rank(lease, annotator, "again")
    assert repeat.is_counted and repeat.order and repeat.task_id != done[0].task_id
    # Neither trained on nor counted twice, nor asked a third time.
    assert repeat not in Ranking.objects.trainable()
    assert rank_next(project, annotator, "next").task.source != done[0].task


NATIVE = Path(__file__).resolve().parents[1] / "golden" / "rankings_v1.jsonl"


def test_it_makes_checks_of_a_file_once(project, admin):
    lines = NATIVE.read_bytes().splitlines()
    first, again = (
        known_answers.import_file(project, file=io.BytesIO(NATIVE.read_bytes()), name="known", actor=admin)
        for _attempt in range(2)
    )
    assert (first.made, first.already_imported) == (2, False)
    assert (again.made, again.already_imported) == (0, True)
    stored = {
        answer.task.prompt.digest: [
            [answer.task.completions.get(pk=pk).message["content"] for pk in group] for group in answer.order
        ]
        for answer in KnownAnswer.objects.all()
    }
    for row in map(json.loads, lines):
        texts = {item["id"]: item["messages"][0]["content"] for item in row["completions"]}
        assert [[texts[key] for key in group] for group in row["ranking"]] in stored.values()


@pytest.mark.parametrize(
    "change",
    [
        {"ranking": [["nobody"], ["c0"]]},
        {"ranking": None},
        {"completions": []},
        {"completions": [{"id": "c0"}]},
        {"prompt": "no messages"},
        {"rationale": 5},
    ],
)
def test_it_makes_no_check_of_a_file_with_a_wrong_row(project, change):
    first, second = NATIVE.read_text().splitlines()[:2]
    wrong = json.dumps(json.loads(second) | change)
    with pytest.raises(assignment.TaskError, match="row 2"):
        known_answers.import_file(project, file=io.BytesIO(f"{first}\n{wrong}\n".encode()), name="known")
    assert not Task.objects.exists() and not project.prompt_sets.exists()
    with pytest.raises(assignment.TaskError, match="row 1"):
        known_answers.import_file(project, file=io.BytesIO(b"\xff{"), name="known")
