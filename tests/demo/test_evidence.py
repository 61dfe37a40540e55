"""The evidence benchmark: what each cell draws anew, which inputs its stages get, and its table."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
from pathlib import Path

import pytest

from plumbline.demo import golds, world
from training.engine import checkpoint, families, sections, tokenizer
from training.engine.heads import RewardModel, ScalarHead
from training.engine.transformer import Transformer

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def evidence():
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("evidence")


@pytest.fixture(scope="module")
def evidence_cell(evidence):
    return evidence.evidence_cell


@pytest.fixture
def bench(evidence_cell, tmp_path, monkeypatch):
    """bench() -> a Bench over a tiny policy and six eval prompts; its stages note what they were given."""
    monkeypatch.setattr(evidence_cell, "EVAL_PROMPTS", 6)
    monkeypatch.setattr(evidence_cell, "BEST_OF", (2, 4))
    monkeypatch.setattr(evidence_cell, "MAX_NEW_TOKENS", 4)
    texts = tokenizer.train([text for pair in world.pairs(50, 1) for text in pair], vocab_size=400)
    shape = sections.ModelConfig(hidden_size=16, intermediate_size=16, n_layers=1, n_heads=2, n_kv_heads=2)
    policy = Transformer(families.from_scratch(shape, texts.vocab_size)).initialise()
    checkpoint.save_policy(policy, texts, tmp_path / "starter")
    # Stories, so that the gold tells them apart, in place of the gibberish of a policy that never learned.
    asked = world.prompts("eval")[0].combination
    monkeypatch.setattr(
        evidence_cell.Bench, "text", lambda bench, sample: world.story(asked, random.Random(str(sample.ids)))
    )
    given = []  # (run, command)

    def run_engine(command, **_options):
        stage, output = command[3], Path(command[5]) / "output"
        given.append((Path(command[5]).name, command))
        if stage == "reward_model":
            checkpoint.save_reward_model(RewardModel(policy, ScalarHead(16)), texts, output)
        else:
            checkpoint.save_policy(policy, texts, output)

    monkeypatch.setattr(evidence_cell.subprocess, "run", run_engine)

    def make(**named):
        made = evidence_cell.Bench(tmp_path / "starter", **named)
        made.given = given
        return made

    return make


def test_it_draws_prompts_people_and_rivals_anew_for_each_seed(evidence_cell, bench, tmp_path):
    made = bench()
    first, second = (evidence_cell.Work(tmp_path, made, golds.GOLDS["style"], seed) for seed in (1, 2))
    rankings = [work.rank(made.ranked(work.seed, 20), offset=0) for work in (first, second)]
    asked = [{row["group"] for row in rows} for rows in rankings]
    assert asked[0] != asked[1]
    assert {row["pool"] for rows in rankings for row in rows} == {"reward"}
    assert made.rivals(1) != made.rivals(2)
    assert made.rivals(1) is made.rivals(1)
    # Those who measure never trained, and no seed asks another seed's people.
    seeds = [person.seed for work in (first, second) for person in (*work.annotators, *work.strangers)]
    assert len(set(seeds)) == len(seeds)


def test_it_keeps_eval_prompts_out_of_what_is_ranked_and_rolled_out(evidence_cell, bench, tmp_path):
    made = bench()
    work = evidence_cell.Work(tmp_path, made, golds.GOLDS["style"], 1)
    measured = {spec.group for spec in made.eval_prompts}
    trained = {json.loads(line)["group"] for line in work.prompts_path.read_text().splitlines() if '"eval"' not in line}
    assert trained
    assert not measured & trained
    assert not measured & {row["group"] for row in work.rank(made.ranked(1, 50), offset=0)}


def test_it_shuffles_the_orders_of_a_placebo(evidence_cell, bench, tmp_path):
    """Where everyone agrees, the placebo's orders agree with them no more often than chance: 1 in 24."""
    made = bench()
    work = evidence_cell.Work(tmp_path, made, golds.GOLDS["style"], 1)

    class Firm:
        def rank(self, prompt, texts):
            return [[i] for i in sorted(range(len(texts)), key=texts.__getitem__)]

    work.annotators = [Firm()] * evidence_cell.ANNOTATORS
    rows = {shuffled: work.rank(made.ranked(1, 48), offset=0, shuffled=shuffled) for shuffled in (False, True)}
    assert [row["completions"] for row in rows[False]] == [row["completions"] for row in rows[True]]
    kept = sum(a["ranking"] == b["ranking"] for a, b in zip(rows[False], rows[True], strict=True))
    assert kept < 10


def inputs_of(made, run):
    """The inputs that a run was given, by name."""
    (command,) = [command for name, command in made.given if name == run]
    pairs = [argument.removeprefix("inputs.").split("=", 1) for argument in command if argument.startswith("inputs.")]
    return {name: Path(json.loads(path)) for name, path in pairs}


def test_it_lets_a_second_round_and_its_control_differ_in_the_reward_model_alone(bench):
    made = bench()
    result = made.cell(golds.GOLDS["style"], 8, 1, "second-round")
    second, control = inputs_of(made, "ppo2"), inputs_of(made, "ppo2c")
    assert {name for name in second if second[name] != control[name]} == {"reward_model"}
    assert second["policy"].parent.name == "ppo1"
    assert {inputs_of(made, run)["ref_policy"] for run in ("ppo1", "ppo2", "ppo2c")} == {made.starter_path}
    assert {"win", "second_win", "control_win", "second_accuracy"} <= set(result)


def test_it_gives_a_reward_model_the_inputs_that_a_round_does(bench):
    """With prompts its scores are set by the starter's samples, not by whichever completions were ranked."""
    made = bench()
    made.cell(golds.GOLDS["style"], 8, 1)
    assert set(inputs_of(made, "rm1")) == {"policy", "rankings", "prompts"}


def test_it_fine_tunes_on_one_of_the_best_answers_of_every_ranking(bench, tmp_path):
    made = bench(folder=tmp_path / "kept")
    assert "winners_win" in made.cell(golds.GOLDS["style"], 8, 1)
    lines = {
        name: (tmp_path / "kept" / "style-8-1" / f"{name}.jsonl").read_text().splitlines() for name in ("rm1", "sft1")
    }
    for row, shown in zip(map(json.loads, lines["rm1"]), map(json.loads, lines["sft1"]), strict=True):
        texts = {item["id"]: item["messages"][0] for item in row["completions"]}
        assert shown["messages"] == [*row["prompt"], texts[row["ranking"][0][0]]]


def test_it_does_nothing_twice_in_a_folder_and_refuses_other_settings_there(bench, tmp_path):
    folder = tmp_path / "kept"
    first = bench(folder=folder).cell(golds.GOLDS["style"], 8, 1)
    again = bench(folder=folder)
    done = len(again.given)
    assert again.cell(golds.GOLDS["style"], 8, 1) == first
    assert len(again.given) == done
    # A setting of PPO's leaves the reward model alone; SFT on winners has no part in it either.
    bench(folder=folder, overrides=["ppo.kl_coef=0.3"]).cell(golds.GOLDS["style"], 8, 1)
    assert [name for name, _command in again.given[done:]] == ["ppo1 ppo.kl_coef=0.3"]
    with pytest.raises(SystemExit, match="holds another run"):
        bench(folder=folder, config="tiny").cell(golds.GOLDS["style"], 8, 1)


def test_it_goes_on_where_a_guard_stopped_a_cell(evidence, bench, tmp_path, monkeypatch):
    def stopped(command, **_options):
        raise subprocess.CalledProcessError(3, command)

    made = bench()
    monkeypatch.setattr(evidence.evidence_cell.subprocess, "run", stopped)
    monkeypatch.setattr(evidence.evidence_cell, "Bench", lambda *_arguments, **_named: made)
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(
        "sys.argv",
        ["evidence", "run", "--gold", "style", "--rankings", "8", "--seeds", "1", "2", "--threads", "1",
         "--results", str(results)],
    )  # fmt: skip
    evidence.main()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["failed"] for row in rows] == ["the stage reward_model ended with code 3"] * 2
    assert [row["seed"] for row in rows] == [1, 2]


def test_it_prints_a_row_for_each_policy(evidence, capsys):
    figures = dict.fromkeys(evidence.FIGURES, 0.5) | {"win_low": 0.4, "win_high": 0.6}
    cell = {"gold": "style", "rankings": 60, "variant": "second-round", "seed": 1}
    result = (
        cell | figures | {f"{who}_{name}": value for who in ("second", "control") for name, value in figures.items()}
    )
    failed = cell | {"seed": 3, "failed": "the stage ppo ended with code 3"}
    evidence.print_table([result, result | {"seed": 2, "win": 0.7}, failed])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2] for line in printed[2:5]] == [
        "second-round", "second-round (control)", "second-round (second)"
    ]  # fmt: skip
    assert "0.500 (0.400 to 0.600), 0.700 (0.400 to 0.600)" in printed[2]
    assert printed[2].split(" | ")[3] == "2 of 3"
    assert printed[-1] == "style, 60 rankings, seed 3: the stage ppo ended with code 3."


def test_it_refuses_to_count_a_seed_twice(evidence):
    cell = {"gold": "style", "rankings": 60, "variant": "plain", "seed": 1, "failed": "the stage ppo ended with code 3"}
    with pytest.raises(SystemExit, match="Seed 1 of style 60 is there twice"):
        evidence.print_table([cell, cell])


def test_it_counts_agreement_by_hand(evidence_cell):
    # scores 3 > 1 = 1: the pair (0, 1) is right, (1, 2) equal, (2, 0) wrong
    assert evidence_cell.agreement([[3.0, 1.0, 1.0]], [[(0, 1), (1, 2), (2, 0)]]) == 0.5
