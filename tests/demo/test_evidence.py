"""The evidence benchmark: what each cell draws anew, which inputs its stages get, and its table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import subprocess
from pathlib import Path

import pytest

from plumbline.demo import golds, world
from training.engine import checkpoint, config, families, tokenizer
from training.engine.heads import RewardModel, ScalarHead
from training.engine.transformer import Transformer

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "evidence.py"


@pytest.fixture(scope="module")
def evidence():
    spec = importlib.util.spec_from_file_location("evidence", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bench(evidence, tmp_path, monkeypatch):
    """bench(variant) -> a Bench over a tiny policy and six eval prompts; its stages note what they were given."""
    monkeypatch.setattr(evidence, "EVAL_PROMPTS", 6)
    monkeypatch.setattr(evidence, "BEST_OF", (2, 4))
    monkeypatch.setattr(evidence, "MAX_NEW_TOKENS", 4)
    texts = tokenizer.train([text for pair in world.pairs(50, 1) for text in pair], vocab_size=400)
    shape = config.ModelConfig(hidden_size=16, intermediate_size=16, n_layers=1, n_heads=2, n_kv_heads=2)
    policy = Transformer(families.from_scratch(shape, texts.vocab_size)).initialise()
    checkpoint.save_policy(policy, texts, tmp_path / "starter")
    # Stories, so that the gold tells them apart, in place of the gibberish of a policy that never learned.
    asked = world.prompts("eval")[0].combination
    monkeypatch.setattr(
        evidence.Bench, "text", lambda bench, sample: world.story(asked, random.Random(str(sample.ids)))
    )
    given = {}

    def stage(work, name, run, **inputs):
        given[run] = inputs
        if name == "ppo":
            checkpoint.save_policy(policy, texts, work.output(run))
        else:
            checkpoint.save_reward_model(RewardModel(policy, ScalarHead(16)), texts, work.output(run))
        return 1.0

    monkeypatch.setattr(evidence.Work, "stage", stage)

    def make(variant="plain"):
        arguments = argparse.Namespace(starter=tmp_path / "starter", variant=variant, skip_ppo=False)
        made = evidence.Bench(arguments)
        made.given = given
        return made

    return make


def test_it_draws_prompts_people_and_rivals_anew_for_each_seed(evidence, bench, tmp_path):
    made = bench()
    first, second = (evidence.Work(tmp_path, made, golds.GOLDS["style"], seed) for seed in (1, 2))
    rankings = [work.rank(made.starter, 20, offset=0, shuffled=False) for work in (first, second)]
    asked = [{row["group"] for row in rows} for rows in rankings]
    assert asked[0] != asked[1]
    assert {row["pool"] for rows in rankings for row in rows} == {"reward"}
    assert made.rivals(1) != made.rivals(2)
    assert made.rivals(1) is made.rivals(1)
    # Those who measure never trained, and no seed asks another seed's people.
    seeds = [person.seed for work in (first, second) for person in (*work.annotators, *work.strangers)]
    assert len(set(seeds)) == len(seeds)


def test_it_keeps_eval_prompts_out_of_what_is_ranked_and_rolled_out(evidence, bench, tmp_path):
    made = bench()
    work = evidence.Work(tmp_path, made, golds.GOLDS["style"], 1)
    measured = {spec.group for spec in made.eval_prompts}
    trained = {json.loads(line)["group"] for line in work.prompts_path.read_text().splitlines() if '"eval"' not in line}
    assert trained
    assert not measured & trained
    assert not measured & {row["group"] for row in work.rank(made.starter, 50, offset=0, shuffled=False)}


def test_it_shuffles_the_orders_of_a_placebo(evidence, bench, tmp_path):
    """Where everyone agrees, the placebo's orders agree with them no more often than chance: 1 in 24."""
    made = bench()
    work = evidence.Work(tmp_path, made, golds.GOLDS["style"], 1)

    class Firm:
        def rank(self, prompt, texts):
            return [[i] for i in sorted(range(len(texts)), key=texts.__getitem__)]

    work.annotators = [Firm()] * evidence.ANNOTATORS
    rows = {shuffled: work.rank(made.starter, 48, offset=0, shuffled=shuffled) for shuffled in (False, True)}
    assert [row["completions"] for row in rows[False]] == [row["completions"] for row in rows[True]]
    kept = sum(a["ranking"] == b["ranking"] for a, b in zip(rows[False], rows[True], strict=True))
    assert kept < 10


def test_it_lets_a_second_round_and_its_control_differ_in_the_reward_model_alone(bench):
    made = bench("second-round")
    result = made.cell(golds.GOLDS["style"], 8, 1)
    second, control = made.given["ppo2"], made.given["ppo2c"]
    assert {name for name in second if second[name] != control[name]} == {"inputs.reward_model"}
    assert second["inputs.policy"].parent.name == "ppo1"
    assert {made.given[run]["inputs.ref_policy"] for run in ("ppo1", "ppo2", "ppo2c")} == {made.arguments.starter}
    assert {"win", "second_win", "control_win", "second_accuracy"} <= set(result)


def test_it_gives_a_reward_model_the_inputs_that_a_round_does(bench):
    """With prompts its scores are set by the starter's samples, not by whichever completions were ranked."""
    made = bench()
    made.cell(golds.GOLDS["style"], 8, 1)
    assert set(made.given["rm1"]) == {"inputs.policy", "inputs.rankings", "inputs.prompts"}


def test_it_goes_on_where_a_guard_stopped_a_cell(evidence, bench, tmp_path, monkeypatch):
    def stopped(work, name, run, **inputs):
        raise subprocess.CalledProcessError(3, ["python", "-m", "training.engine", name])

    made = bench()
    monkeypatch.setattr(evidence.Work, "stage", stopped)
    monkeypatch.setattr(evidence, "Bench", lambda arguments: made)
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
    evidence.print_table([result, result | {"win": 0.7}, cell | {"failed": "the stage ppo ended with code 3"}])
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2] for line in printed[2:5]] == [
        "second-round", "second-round (control)", "second-round (second)"
    ]  # fmt: skip
    assert "0.500 (0.400 to 0.600), 0.700 (0.400 to 0.600)" in printed[2]
    assert printed[-1] == "style, 60 rankings, seed 1: the stage ppo ended with code 3."


def test_it_counts_agreement_by_hand(evidence):
    # scores 3 > 1 = 1: the pair (0, 1) is right, (1, 2) equal, (2, 0) wrong
    assert evidence.agreement([[3.0, 1.0, 1.0]], [[(0, 1), (1, 2), (2, 0)]]) == 0.5
