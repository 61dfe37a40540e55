"""Cleaning of documents: what stays, and that everything else is counted."""

import json

import pytest

from training.engine import cleaning, config, data, pretrain, rundir, sections, vocabulary

STORY = "Once there was a shy fox who lived beside the old mill and found a red kite in the grass one windy morning."


def clean(documents, **settings):
    usual = {"unicode": "NFC", "exact_duplicates": True}
    return cleaning.clean(documents, sections.CleaningConfig(**(usual | settings)))


def test_it_normalises_unicode_and_drops_controls():
    kept, counts = clean(["cafe\u0301\r\nbar\x00\x1b[1m", "plain\ttext"])
    assert kept == ["caf\u00e9\nbar[1m", "plain\ttext"]
    assert counts["normalised"] == 1
    assert clean(["\ufb01ve \u2460"], unicode="NFKC")[0] == ["five 1"]
    assert clean(["cafe\u0301\x00"], unicode="none")[0] == ["cafe\u0301\x00"]


def test_it_drops_exact_duplicates_after_normalising_and_keeps_the_first():
    kept, counts = clean(["caf\u00e9", "tea", "cafe\u0301 ", "tea"])
    assert kept == ["caf\u00e9", "tea"]
    assert counts["exact_duplicates"] == 2
    assert len(clean(["tea", "tea"], exact_duplicates=False)[0]) == 2


def test_it_counts_what_each_filter_leaves_out():
    documents = ["hi", "x" * 50, "1234 5678 ab 90", "a fair sentence"]
    kept, counts = clean(documents, min_characters=3, max_characters=40, min_letters=0.5)
    assert kept == ["a fair sentence"]
    assert {name: count for name, count in counts.items() if count} == {"too_short": 1, "too_long": 1, "few_letters": 1}


def test_it_drops_near_duplicates_by_their_true_similarity():
    words = STORY.split()
    near = " ".join([*words[:-1], "evening."])  # the last of 19 runs of five words differs: 18 / 20
    far = " ".join(word if place % 4 else "some" for place, word in enumerate(words))
    one, other = (cleaning.shingles(text) for text in (STORY, near))
    assert len(one) == 19 and cleaning.jaccard(one, other) == pytest.approx(18 / 20)
    kept, counts = clean([STORY, near, far], near_duplicates=0.8)
    assert kept == [STORY, far] and counts["near_duplicates"] == 1
    assert clean([STORY, near], near_duplicates=0.95)[1]["near_duplicates"] == 0
    assert clean([STORY, near])[1]["near_duplicates"] == 0, "off by default"


def test_it_finds_near_duplicates_among_many_texts():
    texts = [" ".join(f"w{number}-{place}" for place in range(60)) for number in range(200)]
    copies = [text.replace("w", "W", 1) + " end" for text in texts]  # 56 runs shared of 57
    assert clean([*texts, *copies], near_duplicates=0.8)[1]["near_duplicates"] == 200


def test_it_keeps_conversations_and_drops_their_copies():
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    kept, counts = clean([talk, "Hi", [dict(message) for message in talk]], min_characters=2)
    assert kept == [talk, "Hi"] and counts["exact_duplicates"] == 1


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(f"{STORY}\n\nAn owl sat on a lamp.\n\n{STORY}")
    (folder / "b.jsonl").write_text(json.dumps({"text": "A bear."}) + "\n" + json.dumps({"text": "no"}) + "\n")
    (folder / "c.md").write_text("not read")
    return {"documents": str(folder)}


def test_it_says_what_it_did_in_the_run(inputs, tmp_path):
    settings = config.build(
        {
            "run": {"device": "cpu"},
            "inputs": {**inputs, "tokenizer": str(tmp_path / "tokenizer" / "output")},
            "tokenizer": {"vocab_size": 300},
            "model": {"hidden_size": 16, "intermediate_size": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2},
            "pretrain": {
                "steps": 1, "batch_tokens": 128, "sequence_length": 64, "validation_share": 0.0,
                "cleaning": {"unicode": "NFC", "exact_duplicates": True, "min_characters": 3},
            },
        }
    )  # fmt: skip
    vocabulary.train(settings, rundir.create(tmp_path / "tokenizer", config.resolved(settings)))
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    pretrain.train(settings, run_dir)
    events = rundir.read_events(run_dir)[0]
    said = "Cleaning left out of 5 documents: 1 too short, 1 exact duplicates; it normalised 0."
    assert events[1]["message"] == said
    assert rundir.read_events(tmp_path / "tokenizer")[0][1]["message"] == said
    summary = events[-1]["summary"]
    assert (summary["cleaning_too_short"], summary["cleaning_exact_duplicates"]) == (1, 1)
    values = config.resolved(settings)
    values["pretrain"]["cleaning"]["min_characters"] = 9999
    with pytest.raises(data.DataError, match="leave none of 5 documents"):
        pretrain.train(config.build(values), run_dir)
