import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from annotation import assignment, rankings
from annotation.agreement import comparisons
from annotation.formats import EXPORTS
from annotation.formats.selection import JudgmentFilter
from annotation.models import (
    Assignment,
    Completion,
    Membership,
    Prompt,
    PromptSet,
    Ranking,
    Slot,
    Task,
    TaskCompletion,
)
from training.engine import data

pytestmark = pytest.mark.django_db

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "rankings_v1.jsonl"


def written(project, name, **selection):
    return "".join(EXPORTS[name][0](project, JudgmentFilter(**selection)))


def uuid(number):
    return UUID(int=number, version=4)


@pytest.fixture
def golden_rows(project, annotator):
    """Two judgments with every field set, ids and times fixed: what tests/golden/rankings_v1.jsonl holds."""
    Membership.objects.filter(user=annotator).update(pseudonym="person-0123abcd")
    prompt_set = PromptSet.objects.create(project=project, name="Golden", version=2, file_sha256="0" * 64)
    one = Prompt.objects.create(
        id=uuid(1),
        prompt_set=prompt_set,
        digest="c7c4d3f0" * 8,
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Tell a story about a shy fox and a kite: “é”, 雪 \u2028 <b>\n"},
        ],
        pool="reward",
        group="fox/kite",
        position=1,
    )
    two = Prompt.objects.create(
        id=uuid(2),
        prompt_set=prompt_set,
        digest="ab12" * 16,
        messages=[{"role": "user", "content": "Sing."}],
        pool="ppo",
        group="song",
        position=2,
    )
    generator = {"kind": "checkpoint", "digest": "f" * 64, "seed": 7, "sampling": {"temperature": 1.0}}
    add_judgment(project, annotator, one, ["Once.", "Twice.", "Thrice.", "Once."], generator, base=100)
    add_judgment(project, annotator, two, ["La.", "Lo."], {"kind": "import"}, base=200, plain=True)


def add_judgment(project, annotator, prompt, texts, generator, *, base, plain=False):
    made = [
        Completion.objects.create(
            id=uuid(base + number),
            prompt=prompt,
            message={"role": "assistant", "content": text if plain else [{"type": "text", "text": text}]},
            text_sha256=text,
            generator=generator,
        )
        for number, text in enumerate(texts)
    ]
    task = Task.objects.create(id=uuid(base + 50), project=project, prompt=prompt)
    for number, completion in enumerate(made):
        TaskCompletion.objects.create(task=task, completion=completion, position=number, card=number % 3)
    slot = Slot.objects.create(task=task, number=1, project=project, shuffle=1, state="done")
    ids = [str(completion.pk) for completion in made]
    lease = Assignment.objects.create(
        slot=slot,
        task=task,
        annotator=annotator,
        state="submitted",
        lease_expires_at=datetime(2026, 11, 20, 12, tzinfo=UTC),
        presented_order=ids[:3][::-1],
    )
    judgment = {"order": [[ids[1]], [ids[0]]], "flags": {}, "ratings": {}}
    if not plain:
        judgment = {
            "order": [[ids[2]], [ids[0], ids[3]]],
            "unranked": [ids[1]],
            "ratings": {ids[0]: {"overall": 5}},
            "flags": {ids[1]: ["hallucination"]},
            "rationale": "The third is kind.",
            "note": "A kind ending.",
            "strength": 2,
            "seconds": 12.3,
            "guideline_version": 3,
        }
    Ranking.objects.create(
        id=uuid(base + 60),
        task=task,
        assignment=lease,
        annotator=annotator,
        client_id=str(base),
        body_sha256="0" * 64,
        presented_order=lease.presented_order,
        prompt_set_version=2,
        **judgment,
    )
    Ranking.objects.filter(pk=uuid(base + 60)).update(
        created_at=datetime(2026, 11, 20, 12, 0, base // 100, 5, tzinfo=UTC)
    )


def test_it_writes_the_golden_file_byte_for_byte(project, golden_rows):
    assert written(project, "native").encode() == GOLDEN.read_bytes()


def test_the_engine_reads_the_golden_file():
    first, second = data.load_rankings(GOLDEN)
    assert first.order == [[1], [0, 2]]
    assert (first.group, first.source, len(first.completions)) == ("fox/kite", "annotator", 3)
    assert second.completions[second.order[0][0]] == [{"role": "assistant", "content": "Lo."}]


def test_it_gives_comparisons_of_all_pairs_but_ties():
    assert list(comparisons([["a"], ["b", "c"], ["d"]])) == [
        ("a", "b"),
        ("a", "c"),
        ("a", "d"),
        ("b", "d"),
        ("c", "d"),
    ]
    assert list(comparisons([["a", "b"]])) == []


def test_it_writes_trl_preferences_in_both_forms(project, golden_rows):
    chat = [json.loads(line) for line in written(project, "trl").splitlines()]
    assert len(chat) == 3
    assert chat[0]["prompt"][0] == {"role": "system", "content": "Be kind."}
    assert chat[2]["chosen"] == [{"role": "assistant", "content": "Lo."}]
    plain = [json.loads(line) for line in written(project, "trl_plain").splitlines()]
    assert plain == [{"prompt": "Sing.", "chosen": "Lo.", "rejected": "La."}]


def test_it_writes_hh_rlhf_dialogues(project, golden_rows):
    last = json.loads(written(project, "hh_rlhf").splitlines()[-1])
    assert last == {
        "chosen": "\n\nHuman: Sing.\n\nAssistant: Lo.",
        "rejected": "\n\nHuman: Sing.\n\nAssistant: La.",
    }


def test_it_writes_ultrafeedback_scores(project, golden_rows):
    first, second = (json.loads(line) for line in written(project, "ultrafeedback").splitlines())
    # Thrice is first of two tie groups (2), both Once stand in the second (1); that one of them was rated 5 would be
    # another scale.
    assert [(row["response"], row["overall_score"]) for row in first["completions"]] == [
        ("Once.", 1),
        ("Thrice.", 2),
        ("Once.", 1),
    ]
    assert second["instruction"] == "Sing."
    ranking = Ranking.objects.get(pk=json.loads(written(project, "native").splitlines()[0])["id"])
    ranking.ratings = {key: {"overall": 7 - place} for place, group in enumerate(ranking.order) for key in group}
    ranking.save()
    rated = json.loads(written(project, "ultrafeedback").splitlines()[0])["completions"]
    assert {row["overall_score"] for row in rated} == {6, 7}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_it_neutralises_formulas_in_csv(project, annotator, make_prompts, make_task, start):
    text = f"{start}HYPERLINK(1)"
    make_task(make_prompts("Tell.")[0], text, "Fine.")
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[completion_id] for completion_id in lease.presented_order]
    rankings.submit_ranking(lease, annotator=annotator, client_id="c", order=order, rationale=text)
    rows = list(csv.DictReader(io.StringIO(written(project, "csv"), newline="")))
    assert {row["text"] for row in rows} == {"'" + text, "Fine."}
    assert {row["rationale"] for row in rows} == {"'" + text}
    assert sorted(row["place"] for row in rows) == ["1", "2"]


def test_it_keeps_evaluation_out_of_formats_made_for_training(project, golden_rows):
    Task.objects.update(purpose="eval")
    assert written(project, "trl") == ""
    assert len(written(project, "trl", purposes=("eval",)).splitlines()) == 3
    assert len(written(project, "native").splitlines()) == 2


def test_it_selects_by_source(project, golden_rows):
    Ranking.objects.filter(client_id="100").update(source="simulated")
    assert len(written(project, "native", simulated="only").splitlines()) == 1
    assert len(written(project, "native", simulated="exclude").splitlines()) == 1


def test_it_streams_with_a_bounded_number_of_queries(project, annotator, make_tasks, django_assert_max_num_queries):
    for number, _task in enumerate(make_tasks(20)):
        lease = assignment.next_assignment(project, annotator=annotator)
        order = [[completion_id] for completion_id in lease.presented_order]
        rankings.submit_ranking(lease, annotator=annotator, client_id=str(number), order=order)
    with django_assert_max_num_queries(6):
        assert len(written(project, "native").splitlines()) == 20


@pytest.mark.parametrize("name", EXPORTS)
def test_it_exports_an_empty_project(project, name):
    assert len(written(project, name).splitlines()) == (1 if name == "csv" else 0)
