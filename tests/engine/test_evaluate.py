"""Evaluation: hand-worked figures, and a whole report."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch

from tests.engine.metrics_page import documented
from training.engine import (
    calibration,
    checkpoint,
    config,
    data,
    evaluate,
    frontier,
    rollout,
    rundir,
    sampling,
    scorer,
)
from training.engine.heads import RewardModel, ScalarHead


def test_it_counts_a_tie_as_half_a_win():
    assert evaluate.wins([1.0, 0.0, 2.0], [0.0, 1.0, 2.0]).tolist() == [1.0, 0.0, 0.5]


def test_it_bootstraps_the_interval_that_theory_gives():
    values = np.repeat([0.0, 1.0], [40, 60])
    low, high = evaluate.bootstrap_interval(values, seed=0)
    # mean 0.6, standard error sqrt(0.6 * 0.4 / 100) = 0.049, 1.96 of them: 0.504 to 0.696
    assert low == pytest.approx(0.504, abs=0.015)
    assert high == pytest.approx(0.696, abs=0.015)
    assert evaluate.bootstrap_interval([1.0] * 5, seed=0) == (1.0, 1.0)


def test_it_measures_diversity_by_hand():
    # bigrams 12 23 | 12 22: three different ones of four
    assert evaluate.distinct([[1, 2, 3], [1, 2, 2]]) == 0.75
    assert evaluate.distinct([[1], []]) == 0.0


def test_it_bounds_best_of_n_by_hand():
    assert frontier.best_of_n_kl_bound(1) == 0
    assert frontier.best_of_n_kl_bound(4) == pytest.approx(math.log(4) - 0.75)


def test_it_sums_the_exact_kl_of_each_completion(make_policy):
    policy, ref_policy = make_policy(seed=1), make_policy(seed=2)
    prompts, completions = [[5, 6], [7]], [[8, 9, 10], [11]]
    found = rollout.exact_kl_per_completion(policy, ref_policy, rollout.collate(prompts, completions, pad_id=0))
    for row in range(2):
        ids = torch.tensor([[*prompts[row], *completions[row]]])
        p = policy(ids)[0].double().softmax(-1).detach().numpy()
        q = ref_policy(ids)[0].double().softmax(-1).detach().numpy()
        places = range(len(prompts[row]) - 1, ids.shape[1] - 1)
        assert found[row].item() == pytest.approx(sum((p[i] * np.log(p[i] / q[i])).sum() for i in places), rel=1e-4)


def test_it_takes_no_more_tokens_at_once_for_the_kl_than_it_may(make_policy, monkeypatch):
    policy, ref_policy = make_policy(seed=1), make_policy(seed=2)
    prompts, completions = [[5] * (1 + n % 7) for n in range(30)], [[8 + n] * (1 + n % 5) for n in range(30)]
    trajectories = rollout.collate(prompts, completions, pad_id=0)
    whole = rollout.exact_kl_per_completion(policy, ref_policy, trajectories, most_tokens=10_000)
    action_logits, taken = rollout.action_logits, []

    def record(policy, part):
        taken.append(part.input_ids.numel())
        return action_logits(policy, part)

    monkeypatch.setattr(rollout, "action_logits", record)
    found = rollout.exact_kl_per_completion(policy, ref_policy, trajectories, most_tokens=24)
    assert max(taken) <= 24 and len(taken) > 10
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=1e-4)


def test_it_meets_k1_on_average(make_policy):
    """k1 over many samples of the policy is an unbiased estimate of the same KL."""
    policy, ref_policy = make_policy(seed=1), make_policy(seed=1)
    with torch.no_grad():
        for parameter in ref_policy.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    samples = sampling.generate(policy, [[5, 6]], max_new_tokens=3, samples_per_prompt=4000, seed=0)
    t = rollout.collate([[5, 6]] * 4000, [sample.ids for sample in samples], pad_id=0)
    with torch.no_grad():
        logprobs = rollout.action_logprobs(rollout.action_logits(policy, t), t)
        ref_logprobs = rollout.action_logprobs(rollout.action_logits(ref_policy, t), t)
    k1 = rollout.completion_kl(logprobs, ref_logprobs, t.action_mask)
    exact = rollout.exact_kl_per_completion(policy, ref_policy, t, most_tokens=5000)
    error = (k1.std() / 4000**0.5).item()
    assert exact.mean().item() > 10 * error, "too close to 0 to tell"
    assert k1.mean().item() == pytest.approx(exact.mean().item(), abs=4 * error)
    assert exact.std() < k1.std()


@pytest.fixture
def world(tmp_path, make_policy, story_tokenizer):
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    for name, seed in (("policy", 1), ("ref_policy", 2)):
        checkpoint.save_policy(make_policy(**shape, seed=seed), story_tokenizer, tmp_path / name)
    judge = RewardModel(make_policy(**shape, seed=3), ScalarHead(32))
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "reward_model")
    rows = [{"messages": [{"role": "user", "content": f"a fox {n}"}], "pool": "eval" if n else "ppo"} for n in range(9)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(inputs=None, **settings):
        names = {name: str(tmp_path / name) for name in ("policy", "ref_policy", "reward_model")}
        return config.build(
            {
                "run": {"device": "cpu"},
                "inputs": {**names, "prompts": str(tmp_path / "prompts.jsonl"), **(inputs or {})},
                "evaluate": {"sampling": {"max_new_tokens": 6}, **settings},
            }
        )

    return make


def test_it_writes_a_report(tmp_path, world):
    (tmp_path / "documents.txt").write_text("A fox.\n\nAn owl and a bear.\n")
    demonstration = [{"role": "user", "content": "a fox"}, {"role": "assistant", "content": "It ran."}]
    (tmp_path / "demonstrations.jsonl").write_text(json.dumps({"messages": demonstration}) + "\n")
    write_rankings(tmp_path, ["best", "middling", "worst"])
    names = {"documents": "documents.txt", "demonstrations": "demonstrations.jsonl", "rankings": "rankings.jsonl"}
    inputs = {name: str(tmp_path / file) for name, file in names.items()} | {"frontier": str(tmp_path / "ref_policy")}
    settings = world(inputs=inputs, best_of=4)
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    evaluate.train(settings, run_dir)
    report = json.loads((run_dir / "output" / "report.json").read_text())
    assert set(report) == documented("evaluate")
    assert report["prompts"] == 8
    assert 0 <= report["win_rate_low"] <= report["win_rate"] <= report["win_rate_high"] <= 1
    assert report["kl_per_completion"] > 0
    assert report["best_of_win_rate"] >= 0.5
    assert report["best_of_score_mean"] > report["ref_score_mean"]
    assert 1 <= report["length_mean"] <= 6
    found = rundir.read_events(run_dir)[0]
    assert [event["type"] for event in found if event["type"] in ("samples", "finished")] == ["samples", "finished"]
    assert found[-1]["summary"]["win_rate"] == report["win_rate"]


def write_rankings(folder, texts, purpose="eval"):
    """One ranking of the texts, best first."""
    completions = [{"id": text, "messages": [{"role": "assistant", "content": text}]} for text in texts]
    row = {"schema": "plumbline.ranking/1", "purpose": purpose, "prompt": [{"role": "user", "content": "a fox"}],
           "completions": completions, "ranking": [[text] for text in texts]}  # fmt: skip
    (folder / "rankings.jsonl").write_text(json.dumps(row) + "\n")


def test_it_examines_a_scorer_on_rankings_that_measure(tmp_path, world, monkeypatch):
    by_length = scorer.FunctionScorer(lambda prompt, text: len(text))
    monkeypatch.setitem(scorer.PYTHON_SCORERS, "length", lambda: by_length)
    write_rankings(tmp_path, ["aaaa", "aa", "aaaaaaaa"])
    settings = world(scorer="length", inputs={"rankings": str(tmp_path / "rankings.jsonl"), "prompts": ""})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    report = evaluate.train(settings, run_dir)
    # Scores 4, 2, 8: right on the first pair (by 2), wrong on the other two (by 4 and 6).
    assert (report["rankings"], report["accuracy"]) == (1, pytest.approx(1 / 3))
    assert report["length_correlation"] > 0.9
    errors = json.loads((run_dir / "output" / "confident_errors.json").read_text())
    assert [(error["chosen"], error["rejected"], error["margin"]) for error in errors] == [
        ("aa", "aaaaaaaa", -6.0), ("aaaa", "aaaaaaaa", -4.0),
    ]  # fmt: skip
    assert errors[0]["prompt"] == "a fox"


def test_it_measures_perplexity_token_by_token(tmp_path, world):
    (tmp_path / "documents.txt").write_text("A shy fox found a kite and shared it.\n\nAn owl.")
    settings = world(inputs={"documents": str(tmp_path / "documents.txt"), "prompts": "", "ref_policy": ""})
    report = evaluate.train(settings, rundir.create(tmp_path / "run", config.resolved(settings)))
    policy, tokenizer = checkpoint.load_policy(tmp_path / "policy"), checkpoint.load_tokenizer_of(tmp_path / "policy")
    nats = []
    for text in ("A shy fox found a kite and shared it.", "An owl."):
        ids = [*tokenizer.encode(text), tokenizer.eos_id]
        with torch.no_grad():
            logprobs = policy(torch.tensor([ids]))[0].log_softmax(-1)
        nats += [-logprobs[place - 1, ids[place]].item() for place in range(1, len(ids))]
    assert report == {"documents_perplexity": pytest.approx(math.exp(np.mean(nats)), rel=1e-5)}


def test_it_traces_the_frontier_as_a_table_and_a_picture(tmp_path, world, capsys):
    settings = world(inputs={"frontier": f"{tmp_path / 'ref_policy'}, {tmp_path / 'policy'}"}, best_of=4)
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    report = evaluate.train(settings, run_dir)
    with open(run_dir / "output" / "frontier.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"policy", "ref_policy", "best of 2", "best of 4"}
    assert float(rows["ref_policy"]["kl_per_completion"]) == pytest.approx(0, abs=1e-5)
    assert float(rows["policy"]["kl_per_completion"]) > 0
    assert float(rows["best of 4"]["kl_per_completion"]) == pytest.approx(math.log(4) - 0.75)
    assert float(rows["best of 4"]["score_mean"]) == pytest.approx(report["best_of_score_mean"])
    assert "best of 4" in capsys.readouterr().out
    picture = (run_dir / "output" / "frontier.svg").read_text()
    assert picture.startswith("<?xml") and "ref_policy" in picture


def test_it_says_how_to_get_the_picture_where_its_library_is_missing(tmp_path, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    settings = world(inputs={"frontier": str(tmp_path / "ref_policy")})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    evaluate.train(settings, run_dir)
    assert (run_dir / "output" / "frontier.csv").exists() and not (run_dir / "output" / "frontier.svg").exists()
    assert "plumbline[plot]" in rundir.read_events(run_dir)[0][1]["message"]


def test_it_measures_calibration_by_hand():
    # Sure of .9 four times and right three times: |.75 - .9|. Sure of .6 once, and right: |1 - .6|.
    margins = torch.tensor([math.log(9)] * 3 + [-math.log(9)] + [math.log(1.5)])
    assert calibration.expected_calibration_error(margins) == pytest.approx((4 * 0.15 + 1 * 0.4) / 5, abs=1e-6)
    # 3 of 4 right is as sure as a margin of log 3 in all four: the scale is log 3 / log 9 = 1/2.
    scale = calibration.fit_scale(margins[:4])
    assert scale == pytest.approx(0.5, rel=1e-4)
    assert calibration.expected_calibration_error(margins[:4] * scale) == pytest.approx(0, abs=1e-4)
    assert calibration.confident_errors(torch.tensor([1.0, -3.0, -0.5, -7.0]), most=2) == [3, 1]


def test_it_correlates_scores_with_length_within_prompts():
    # Prompt 1: scores 1, 3 for lengths 10, 20; prompt 2: 9, 5 for 2, 1. Deviations (-1, 1, 2, -2) and (-5, 5, .5, -.5):
    # 12 / sqrt(10 * 50.5). Across prompts the long ones score lower.
    found = calibration.length_correlation([1, 3, 9, 5], [10, 20, 2, 1], [2, 2])
    assert found == pytest.approx(12 / math.sqrt(10 * 50.5))
    assert calibration.length_correlation([1, 1], [3, 4], [2]) == 0


def test_it_finds_no_difference_between_a_policy_and_itself(tmp_path, world):
    settings = world(inputs={"ref_policy": str(tmp_path / "policy")})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    report = evaluate.train(settings, run_dir)
    assert report["kl_per_completion"] == pytest.approx(0, abs=1e-5)


def test_it_says_who_won_against_an_independent_draw(tmp_path, world, monkeypatch):
    """Draws made to order: the policy answers with 3 tokens, the reference with 2, and with 1 to 4 for best-of-n."""
    drawn = []

    def made_to_order(policy, prompts, *, samples_per_prompt, seed, **named):
        drawn.append((policy.state_dict()["embedding.weight"][0, 0].item(), samples_per_prompt, seed))
        lengths = {1: [3], 2: [2], 3: [1, 2, 3, 4]}[len(drawn)]
        assert samples_per_prompt == len(lengths)
        return [sampling.Sample([40] * n, [-1.0] * n, "length") for _ in prompts for n in lengths]

    monkeypatch.setattr(sampling, "generate", made_to_order)
    by_length = scorer.FunctionScorer(lambda prompt, text: len(text))
    monkeypatch.setitem(scorer.PYTHON_SCORERS, "length", lambda: by_length)
    settings = world(scorer="length", best_of=4)
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    report = evaluate.train(settings, run_dir)
    own, other = (
        checkpoint.load_policy(tmp_path / name).state_dict()["embedding.weight"][0, 0].item()
        for name in ("policy", "ref_policy")
    )
    assert [who for who, _, _ in drawn] == [own, other, other]
    assert len({seed for _, _, seed in drawn}) == 3, "a shared seed would draw both sides alike"
    assert (report["win_rate"], report["best_of_win_rate"]) == (1.0, 1.0)
    assert report["score_mean"] == 1.5 * report["ref_score_mean"] == 0.75 * report["best_of_score_mean"]
    # KL(policy || reference), on what the policy said.
    ids = torch.tensor([checkpoint.load_tokenizer_of(tmp_path / "policy").encode_prompt(
        [{"role": "user", "content": f"a fox {n}"}]) + [40] * 3 for n in range(1, 9)])  # fmt: skip
    with torch.no_grad():
        p, q = (checkpoint.load_policy(tmp_path / name)(ids).double().softmax(-1)[:, -4:-1] for name in
                ("policy", "ref_policy"))  # fmt: skip
    assert report["kl_per_completion"] == pytest.approx((p * (p / q).log()).sum((1, 2)).mean().item(), rel=1e-4)


def test_it_leaves_out_prompts_without_room_for_an_answer(tmp_path, world):
    rows = [{"messages": [{"role": "user", "content": text}], "pool": "eval"} for text in ("a fox", "fox " * 80)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = world()
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    assert evaluate.train(settings, run_dir)["prompts"] == 1
    said = [event["message"] for event in rundir.read_events(run_dir)[0] if event["type"] == "log"]
    assert said == ["1 of 2 prompts are left out: they are longer than the 64 tokens that all networks read."]
    (tmp_path / "prompts.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(data.DataError, match="every prompt is longer"):
        evaluate.train(settings, run_dir)


def test_it_says_how_many_prompts_training_may_have_seen(tmp_path, world):
    run_dir = rundir.create(tmp_path / "run", config.resolved(world()))
    assert evaluate.train(world(), run_dir)["trainable_share"] == 0
    assert not [event for event in rundir.read_events(run_dir)[0] if event["type"] == "log"]
    assert evaluate.train(world(pool=""), run_dir)["trainable_share"] == 1 / 9
    (said,) = [event for event in rundir.read_events(run_dir)[0] if event["type"] == "log"]
    assert said["level"] == "warning"
    assert said["message"].startswith("1 of 9 prompts are not of the pool eval, so training may have seen them")


def test_it_draws_no_more_than_every_network_reads(tmp_path, world, make_policy, story_tokenizer):
    short = make_policy(vocab_size=story_tokenizer.vocab_size, max_positions=24)
    checkpoint.save_reward_model(RewardModel(short, ScalarHead(32)), story_tokenizer, tmp_path / "short")
    settings = world(inputs={"reward_model": str(tmp_path / "short")}, sampling={"max_new_tokens": 40})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    report = evaluate.train(settings, run_dir)
    longest = max(len(story_tokenizer.encode_prompt(prompt.messages))
                  for prompt in data.load_prompts(settings.inputs.prompts, pool="eval"))  # fmt: skip
    assert longest < 24 and report["length_mean"] <= 24 - longest + 2, "prompts differ by a token or two"
    checkpoint.save_policy(short, story_tokenizer, tmp_path / "short_policy")
    (tmp_path / "prompts.jsonl").write_text(
        json.dumps({"messages": [{"role": "user", "content": "fox " * 12}], "pool": "eval"}) + "\n"
    )
    with pytest.raises(config.ConfigError, match="short_policy reads 24 tokens and the longest prompt has"):
        evaluate.train(world(inputs={"frontier": str(tmp_path / "short_policy")}), run_dir)


def test_a_reward_model_says_what_is_too_long_for_it(make_policy, story_tokenizer):
    judge = RewardModel(make_policy(vocab_size=story_tokenizer.vocab_size, max_positions=16), ScalarHead(32))
    talk = scorer.Conversation(messages=[], token_ids=[5] * 17)
    for found in (lambda: scorer.RewardModelScorer([judge]).score([talk]),
                  lambda: scorer.score_rows(judge, [[5] * 10], [[[6], [7] * 7]])):  # fmt: skip
        with pytest.raises(data.DataError, match="has 17 tokens and the reward model reads at most 16"):
            found()
    assert len(scorer.score_rows(judge, [[5] * 10], [[[6], [7] * 6]])) == 2


def test_it_takes_a_python_scorer_only_by_a_registered_name(tmp_path, world, monkeypatch):
    settings = world(scorer="os.system", inputs={"reward_model": ""})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    with pytest.raises(config.ConfigError, match="is not registered; registered are: brevity, valid_json"):
        evaluate.train(settings, run_dir)
    by_length = scorer.FunctionScorer(lambda prompt, text: len(text))
    monkeypatch.setitem(scorer.PYTHON_SCORERS, "length", lambda: by_length)
    report = evaluate.train(world(scorer="length", inputs={"reward_model": ""}), run_dir)
    assert report["score_mean"] > 1
