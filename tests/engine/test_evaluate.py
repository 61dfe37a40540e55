"""Evaluation: hand-worked figures, and a whole report."""

import json
import math

import numpy as np
import pytest
import torch

from tests.engine.metrics_page import documented
from training.engine import checkpoint, config, data, evaluate, rollout, rundir, sampling, scorer
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
    assert evaluate.best_of_n_kl_bound(1) == 0
    assert evaluate.best_of_n_kl_bound(4) == pytest.approx(math.log(4) - 0.75)


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
    exact = rollout.exact_kl_per_completion(policy, ref_policy, t, batch_rows=1000)
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
    settings = world(best_of=4)
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
    assert said == ["1 of 2 prompts are left out: they are longer than the policies' 64 tokens."]
    (tmp_path / "prompts.jsonl").write_text(json.dumps(rows[1]) + "\n")
    with pytest.raises(data.DataError, match="every prompt is longer"):
        evaluate.train(settings, run_dir)


def test_it_takes_a_python_scorer_only_by_a_registered_name(tmp_path, world, monkeypatch):
    settings = world(scorer="os.system", inputs={"reward_model": ""})
    run_dir = rundir.create(tmp_path / "run", config.resolved(settings))
    with pytest.raises(config.ConfigError, match="is not registered; registered are: none"):
        evaluate.train(settings, run_dir)
    by_length = scorer.FunctionScorer(lambda prompt, text: len(text))
    monkeypatch.setitem(scorer.PYTHON_SCORERS, "length", lambda: by_length)
    report = evaluate.train(world(scorer="length", inputs={"reward_model": ""}), run_dir)
    assert report["score_mean"] > 1
