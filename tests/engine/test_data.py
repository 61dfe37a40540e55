"""Readers: what they take, and the one sentence with file, line and key for what they refuse."""

import json
import types

import pytest
import torch

from training.engine import data
from training.engine.data import DataError

USER = {"role": "user", "content": "Tell a story."}


def ranking_row(**changes):
    row = {
        "schema": "plumbline.ranking/1",
        "id": "r1",
        "version": 1,
        "purpose": "train",
        "pool": "reward",
        "source": "annotator",
        "prompt_digest": "d1",
        "prompt": [USER],
        "completions": [
            {"id": f"c{n}", "messages": [{"role": "assistant", "content": f"Story {n}."}], "finish_reason": "stop"}
            for n in range(4)
        ],
        "ranking": [["c2"], ["c0", "c3"]],
        "unranked": ["c1"],
        "weight": 0.5,
        "group": "g1",
        "some_later_key": {"a": 1},
    }
    return {**row, **changes}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_it_reads_a_ranking_without_what_was_left_unranked(tmp_path):
    (ranking,) = data.load_rankings(write(tmp_path / "r.jsonl", ranking_row()))
    assert [messages[0]["content"] for messages in ranking.completions] == ["Story 0.", "Story 2.", "Story 3."]
    assert ranking.order == [[1], [0, 2]]
    assert ranking.has_comparisons
    assert (ranking.weight, ranking.group, ranking.prompt_digest) == (0.5, "g1", "d1")


def test_it_keeps_a_tie_of_all_and_says_that_it_compares_nothing(tmp_path):
    row = ranking_row(ranking=[["c0", "c1", "c2", "c3"]], unranked=[])
    (ranking,) = data.load_rankings(write(tmp_path / "r.jsonl", row))
    assert not ranking.has_comparisons


BROKEN_RANKINGS = {
    "one twice": ({"ranking": [["c2", "c2"], ["c0", "c3"]]}, "'c2' stands there 2 times"),
    "ranked and unranked": ({"ranking": [["c2"], ["c0", "c3", "c1"]]}, "'c1' stands there 2 times"),
    "one missing": ({"ranking": [["c2"], ["c0"]]}, "'c3' stands there never"),
    "a foreign one": ({"ranking": [["c2"], ["c0", "c3", "x"]]}, "'x', which is none of its completions"),
    "an empty group": ({"ranking": [["c2"], [], ["c0", "c3"]]}, "list of tie groups"),
    "no list": ({"ranking": "c2"}, "list of tie groups"),
    "numbers": ({"ranking": [[2], [0, 3]]}, "none of its completions"),
    "an id twice": ({"completions": [ranking_row()["completions"][0]] * 2}, r"completions\[1\].id='c0'"),
    "no completions": ({"completions": None}, "completions must be a list"),
    "an image": (
        {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        r"prompt\[0\].content must be text",
    ),
    "an unknown role": ({"prompt": [{"role": "root", "content": "x"}]}, r"prompt\[0\].role='root'"),
    "a lone surrogate": ({"prompt": [{"role": "user", "content": "\ud800"}]}, "lone surrogate"),
    "a negative weight": ({"weight": -1}, "weight=-1 must be a number, at least 0"),
    "another schema": ({"schema": "plumbline.ranking/2"}, "it must be 'plumbline.ranking/1'"),
    "an eval judgment": ({"purpose": "eval"}, "must never train"),
    "a gold judgment": ({"purpose": "gold"}, "must never train"),
}


@pytest.mark.parametrize("name", BROKEN_RANKINGS)
def test_it_refuses_a_broken_ranking_and_names_the_line(tmp_path, name):
    change, reason = BROKEN_RANKINGS[name]
    path = write(tmp_path / "r.jsonl", ranking_row(), ranking_row(**change))
    with pytest.raises(DataError, match=rf"r\.jsonl line 2: .*{reason}"):
        data.load_rankings(path)


BROKEN_LINES = {
    "no JSON": b"{",
    "invalid UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"messages": []}'.encode("utf-16"),
    "NaN": b'{"weight": NaN}',
    "a key twice": b'{"a": 1, "a": 2}',
    "deep nesting": b"[" * 100_000,
    "a long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "a list": b"[1]",
}


@pytest.mark.parametrize("name", BROKEN_LINES)
def test_it_refuses_a_broken_line(tmp_path, name):
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps({"messages": [USER]}).encode() + b"\n" + BROKEN_LINES[name])
    with pytest.raises(DataError, match="line 2: the line"):
        data.load_prompts(path)


def test_it_refuses_a_line_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "MAX_LINE_BYTES", 100)
    path = write(tmp_path / "p.jsonl", {"messages": [{"role": "user", "content": "x" * 200}]})
    with pytest.raises(DataError, match="line 1: the line is longer"):
        data.load_prompts(path)


def test_it_reads_prompts_of_one_pool(tmp_path):
    rows = [{"digest": str(n), "messages": [USER], "pool": "eval" if n % 2 else "ppo", "group": "g"} for n in range(6)]
    path = write(tmp_path / "p.jsonl", *rows)
    assert [prompt.digest for prompt in data.load_prompts(path, pool="eval", limit=2)] == ["1", "3"]
    with pytest.raises(DataError, match="no prompts of the pool 'sft'"):
        data.load_prompts(path, pool="sft")


def test_it_reads_demonstrations_and_refuses_those_without_an_answer(tmp_path):
    answer = {"role": "assistant", "content": "Once."}
    path = write(tmp_path / "d.jsonl", {"id": "d", "messages": [USER, answer], "weight": None, "group": None})
    (demonstration,) = data.load_demonstrations(path)
    assert (demonstration.prompt, demonstration.completion, demonstration.weight) == ([USER], [answer], 1.0)
    with pytest.raises(DataError, match=r"line 1: messages must be a prompt followed by"):
        data.load_demonstrations(write(tmp_path / "d.jsonl", {"messages": [USER]}))


def test_it_reads_documents_of_both_kinds(tmp_path):
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbfOne\r\ntwo\r\n\r\n\r\n\r\nThree\n")
    assert [text.strip() for text in data.load_documents(tmp_path / "d.txt")] == ["One\ntwo", "Three"]
    write(tmp_path / "d.jsonl", {"text": "One\n\ntwo"})
    assert data.load_documents(tmp_path / "d.jsonl") == ["One\n\ntwo"]
    talk = [USER, {"role": "assistant", "content": "Yes."}, {"role": "note", "content": "Short."}]
    write(tmp_path / "talk.jsonl", {"messages": talk})
    assert data.load_documents(tmp_path / "talk.jsonl") == [talk]
    with pytest.raises(DataError, match=r"role='note' must be one of: system, user, assistant, tool"):
        data.load_demonstrations(tmp_path / "talk.jsonl")
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, reason in (("empty.txt", "no documents"), ("none.txt", "cannot be read")):
        with pytest.raises(DataError, match=reason):
            data.load_documents(tmp_path / name)


def test_it_splits_by_group_the_same_way_whatever_else_is_there():
    rows = [data.Prompt(digest=str(n), messages=[], pool="", group=f"g{n // 3}") for n in range(60)]
    training, validation = data.split_by_group(rows, 0.25, seed=1)
    assert not {row.group for row in training} & {row.group for row in validation}
    assert len({row.group for row in validation}) == 5
    assert data.split_by_group(rows[::-1], 0.25, seed=1)[1] == validation[::-1]
    assert data.split_by_group(rows, 0, seed=1)[1] == []
    assert data.split_by_group(rows[:3], 0.5, seed=1)[1] == []  # one group cannot be split


def test_it_pads_on_either_side():
    ids, mask = data.pad_batch([[1, 2], [3]], 9)
    assert ids.tolist() == [[1, 2], [3, 9]] and mask.tolist() == [[True, True], [True, False]]
    ids, mask = data.pad_batch([[1, 2], [3]], 9, side="left")
    assert ids.tolist() == [[1, 2], [9, 3]] and mask.tolist() == [[True, True], [False, True]]
    assert mask.dtype is torch.bool


def test_it_batches_rows_of_like_length():
    batches = data.batches_by_length([3, 10, 4, 50, 9], most_tokens=20)
    assert batches == [[3], [1, 4], [2, 0]]


def test_it_shuffles_by_seed_and_epoch_alone():
    assert data.shuffled(20, seed=1, epoch=0) == data.shuffled(20, seed=1, epoch=0)
    assert data.shuffled(20, seed=1, epoch=0) != data.shuffled(20, seed=1, epoch=1)
    assert sorted(data.shuffled(20, seed=2, epoch=3)) == list(range(20))


@pytest.mark.parametrize(
    ("device", "dtype", "tokens"),
    [("cpu", torch.float32, 1024), ("cpu", torch.bfloat16, 2048), ("cuda", torch.bfloat16, 8192)],
)
def test_a_pass_of_training_has_more_tokens_where_products_are_quick(device, dtype, tokens):
    compute = types.SimpleNamespace(device=torch.device(device), dtype=dtype)
    assert data.pass_tokens(compute, on_gpu=8192) == tokens
