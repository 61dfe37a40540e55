"""PPO: what it must be before its first step, what one update does, and that a toy is learned."""

import dataclasses
import json
import math

import pytest
import torch

from tests.engine.metrics_page import documented
from training.engine import checkpoint, config, data, ppo, rollout, rundir, sampling, scorer
from training.engine import tokenizer as tokenizers
from training.engine.guards import GuardStop
from training.engine.heads import RewardModel, ScalarHead
from training.engine.progress import Interrupted, newest_checkpoint


@pytest.fixture
def world(tmp_path, make_policy, story_tokenizer):
    """world(**ppo settings) -> a Config over a tiny policy, a random reward model and a few prompts."""
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, tmp_path / "policy")
    checkpoint.save_policy(make_policy(**shape, seed=2), story_tokenizer, tmp_path / "other")
    judge = RewardModel(make_policy(**shape, seed=3), ScalarHead(32, generator=torch.Generator().manual_seed(0)))
    judge.fold(1.0, 0.25)
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "reward_model")
    lines = [
        {"messages": [{"role": "user", "content": f"a {trait} {animal}"}], "pool": pool}
        for trait, animal, pool in [
            ("shy", "fox", "ppo"),
            ("brave", "owl", "ppo"),
            ("small old", "bear", "ppo"),
            ("clever", "mouse", "eval"),
        ]
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(run=None, inputs=None, **settings):
        settings = {
            "iterations": 3,
            "batch_size": 8,
            "minibatch_size": 4,
            "max_new_tokens": 10,
            "sample_prompts": 2,
            "sample_every_iterations": 2,
            **settings,
        }
        names = {name: str(tmp_path / name) for name in ("policy", "reward_model")}
        return config.build(
            {
                "run": {"device": "cpu", "seed": 5, **(run or {})},
                "inputs": {
                    **names,
                    "ref_policy": str(tmp_path / "policy"),
                    "prompts": str(tmp_path / "prompts.jsonl"),
                    **(inputs or {}),
                },
                "ppo": settings,
            }
        )

    return make


def run(tmp_path, settings, name="run", **arguments):
    run_dir = rundir.create(tmp_path / name, config.resolved(settings))
    ppo.train(settings, run_dir, **arguments)
    return run_dir


def events(run_dir, kind):
    return [event for event in rundir.read_events(run_dir)[0] if event["type"] == kind]


def sample(world, players, settings, seed=0):
    prompts, _ = ppo.load_prompts(world, players)
    batch = ppo.take_prompts(prompts, 0, settings, seed=0)
    return ppo.roll_out(players, batch, settings, kl_coef=settings.kl_coef, seed=seed)


def test_it_trains_and_saves_a_policy(tmp_path, world):
    settings = world()
    run_dir = run(tmp_path, settings)
    finished = events(run_dir, "finished")[0]
    assert finished["digest"] == checkpoint.digest(run_dir / "output")
    assert set(finished["summary"]) >= {"score_mean", "kl_per_completion"}
    before, after = checkpoint.load_policy(settings.inputs.policy), checkpoint.load_policy(run_dir / "output")
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert [event["step"] for event in events(run_dir, "metrics")] == [1, 2, 3]
    assert "pool ppo" in events(run_dir, "log")[0]["message"]
    shown = events(run_dir, "samples")
    assert [event["step"] for event in shown] == [1, 2, 3]
    assert set(shown[0]["samples"][0]) == {"prompt", "completion", "reference", "score", "reference_score"}
    assert len(shown[0]["samples"]) == 2


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_it_starts_with_ratio_one_and_no_kl(world, temperature):
    settings = world(temperature=temperature).ppo
    made = world(temperature=temperature)
    players = ppo.make_players(made)
    drawn, readings = sample(made, players, settings)
    again = ppo.look_at(players, drawn.trajectories, temperature=temperature)
    assert (again.logprobs - drawn.old_logprobs).abs().max() < 1e-5
    # The policy still is the reference, so every estimate of their KL is 0 at any temperature.
    assert abs(readings["kl_per_completion"]) < 1e-4
    assert readings["exact_kl_per_completion"] < 1e-4
    # What the sampler recorded is what a full forward pass says.
    assert readings["logprob_gap"] < 1e-5


def test_it_trains_against_a_python_function_by_its_name(tmp_path, world):
    run_dir = run(tmp_path, world(scorer="brevity", value_network="shared", inputs={"reward_model": ""}))
    values = events(run_dir, "metrics")[0]["values"]
    assert -1 < values["score_mean"] < 0, "minus hundreds of characters"
    for wrong, sentence in (
        ({"scorer": "os.system"}, "ppo.scorer='os.system' is not registered; registered are: brevity, valid_json"),
        ({"scorer": "brevity"}, "set ppo.value_network=shared"),
    ):
        with pytest.raises(config.ConfigError, match=sentence):
            run(tmp_path, world(**wrong))


def test_it_scores_with_a_reward_model_of_another_tokenizer(tmp_path, world, make_policy):
    other = tokenizers.train(["The quick brown fox jumps over the lazy dog."], vocab_size=300)
    judge = RewardModel(make_policy(vocab_size=other.vocab_size, max_positions=96), ScalarHead(32))
    checkpoint.save_reward_model(judge, other, tmp_path / "foreign")
    settings = world(value_network="shared", inputs={"reward_model": str(tmp_path / "foreign")})
    players = ppo.make_players(settings)
    drawn, readings = sample(settings, players, settings.ppo)
    texts = [players.tokenizer.decode(row[mask].tolist()) for row, mask in
             zip(drawn.trajectories.actions, drawn.trajectories.action_mask, strict=True)]  # fmt: skip
    prompts, _ = ppo.load_prompts(settings, players)
    batch = ppo.take_prompts(prompts, 0, settings.ppo, seed=0)
    expected = []
    for prompt, text in zip(batch, texts, strict=True):
        ids = other.encode_prompt(prompt.messages) + other.encode_completion([{"role": "assistant", "content": text}])
        expected.append(judge(torch.tensor([ids])).item())
    assert readings["score_mean"] == pytest.approx(sum(expected) / len(expected), abs=1e-4)
    with pytest.raises(config.ConfigError, match=r"set ppo\.value_network=shared"):
        ppo.make_players(world(inputs={"reward_model": str(tmp_path / "foreign")}))


def test_it_logs_a_first_ratio_of_one(tmp_path, world):
    for event in events(run(tmp_path, world()), "metrics"):
        assert event["values"]["first_log_ratio"] < 1e-5


def test_it_has_no_dropout(world):
    players = ppo.make_players(world())
    drawn, _ = sample(world(), players, world().ppo)
    looks = []
    for _ in range(2):
        for module in (players.policy, players.ref_policy, players.value_network, *players.scorer.members):
            module.train()
        looks.append(ppo.look_at(players, drawn.trajectories, temperature=1.0))
    assert torch.equal(looks[0].logprobs, looks[1].logprobs)
    assert torch.equal(looks[0].values, looks[1].values)


@pytest.mark.parametrize("setting", ["top_k", "top_p", "min_new_tokens", "no_repeat_ngram_size", "stop_strings"])
def test_it_refuses_anything_that_bends_the_distribution_of_a_rollout(setting):
    with pytest.raises(config.ConfigError, match=f"ppo.{setting} does not exist"):
        config.build({"ppo": {setting: 1}})


def test_it_starts_the_value_network_as_the_reward_model(world):
    players = ppo.make_players(world())
    drawn, _ = sample(world(), players, world().ppo)
    t = drawn.trajectories
    last = t.attention_mask.sum(1) - 1
    values = players.value_network.values(t.input_ids, t.attention_mask)
    rows = [ids[: n + 1].tolist() for ids, n in zip(t.input_ids, last.tolist(), strict=True)]
    scores = torch.tensor([players.scorer.members[0](torch.tensor([row])).item() for row in rows])
    torch.testing.assert_close(values[torch.arange(len(last)), last], scores, atol=1e-5, rtol=1e-5)
    # Training it must leave the scorer alone.
    assert players.value_network is not players.scorer.members[0]


def test_it_starts_a_shared_value_head_at_zero(world):
    players = ppo.make_players(world(value_network="shared"))
    drawn, _ = sample(world(), players, world().ppo)
    assert not drawn.values.any()
    trainers = ppo.make_trainers(players, world().ppo)
    assert list(trainers) == ["policy"]
    trained = {id(p) for group in trainers["policy"].optimizer.param_groups for p in group["params"]}
    assert id(players.value_head.weight) in trained


@pytest.mark.parametrize("value_network", ["separate", "shared"])
def test_it_values_an_action_by_what_stands_before_it(world, value_network):
    players = ppo.make_players(world(value_network=value_network))
    if players.value_head is not None:
        torch.nn.init.normal_(players.value_head.weight)
    prompt, completion = [5, 6, 7], [8, 9, 10, 11]

    def values(completion):
        trajectories = rollout.collate([prompt], [completion], pad_id=0)
        return ppo.look_at(players, trajectories, temperature=1.0).values[0]

    before = values(completion)
    for t in range(len(completion)):
        changed = values([*completion[:t], 20, *completion[t + 1 :]])
        torch.testing.assert_close(changed[: t + 1], before[: t + 1], atol=1e-6, rtol=0)
        # and it does see what stands before it
        assert t + 1 == len(completion) or (changed[t + 1 :] - before[t + 1 :]).abs().max() > 1e-4


def test_it_cuts_a_completion_at_its_first_stop_before_anything_else(world, monkeypatch):
    players = ppo.make_players(world())
    stop = players.tokenizer.stop_ids[-1]
    prompt = ppo.load_prompts(world(), players)[0][0]

    def scores_with(tail):
        ids = [40, 41, stop, *tail]
        monkeypatch.setattr(sampling, "generate", lambda *_, **__: [sampling.Sample(ids, [-1.0] * len(ids), "length")])
        return ppo.roll_out(players, [prompt], world().ppo, kl_coef=0.05, seed=0)[0]

    clean, dirty = scores_with([]), scores_with([50, 51, stop])
    assert clean.trajectories.actions.tolist() == dirty.trajectories.actions.tolist() == [[40, 41, stop]]
    assert torch.equal(clean.rewards, dirty.rewards)
    assert clean.scores[0] != world().ppo.missing_eos_score


def test_it_fines_a_completion_that_does_not_end(world, monkeypatch):
    made = world(missing_eos_score=-7.0, kl_coef=0.0)
    players = ppo.make_players(made)
    players.tokenizer.stop_ids = (33,)  # a stop token that is not the end of text
    prompts = ppo.load_prompts(made, players)[0][:2]
    samples = [sampling.Sample([40, 33], [-1.0] * 2, "stop"), sampling.Sample([40, 41, 42], [-1.0] * 3, "length")]
    monkeypatch.setattr(sampling, "generate", lambda *_, **__: samples)
    drawn, readings = ppo.roll_out(players, prompts, made.ppo, kl_coef=0.0, seed=0)
    assert drawn.scores[1] == -7.0
    assert drawn.scores[0] != -7.0
    assert drawn.rewards[1].tolist() == [0, 0, -7.0]
    assert readings["eos_rate"] == 0.5


def test_it_gives_the_same_readings_however_rows_are_padded(world):
    players = ppo.make_players(world())
    prompts = [[5, 6], [5, 6, 7, 8, 9]]
    completions = [[10, 11, 12], [13, 14]]
    together = ppo.look_at(players, rollout.collate(prompts, completions, pad_id=0), temperature=1.0)
    for row in range(2):
        alone = ppo.look_at(players, rollout.collate([prompts[row]], [completions[row]], pad_id=3), temperature=1.0)
        length = len(completions[row])
        for name in ("logprobs", "values", "entropy"):
            torch.testing.assert_close(
                getattr(together, name)[row, :length], getattr(alone, name)[0], atol=1e-5, rtol=1e-5
            )
            assert not getattr(together, name)[row, length:].any()


def one_update(made, *, seed=3):
    """(players, drawn, advantages, returns) with an old policy that differs from the present one."""
    players = ppo.make_players(made)
    players.tokenizer.stop_ids = tuple(range(0, 400, 5))  # so that lengths differ
    settings = made.ppo
    drawn, _ = sample(made, players, settings)
    mask = drawn.trajectories.action_mask
    noise = torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed))
    drawn.old_logprobs.add_(torch.where(mask, 0.3 * noise, 0.0))
    drawn.values.add_(torch.where(mask, 0.3 * noise.flip(1), 0.0))
    advantages, returns = rollout.gae(drawn.rewards, drawn.values, mask, 1.0, 0.95)
    return players, drawn, rollout.whiten(advantages, mask), returns


def test_it_agrees_with_a_plain_reading_of_the_paper(world):
    """The gradients of one step against an independent one: no padding, one token at a time, whole-network forward."""
    made = world(batch_size=6, minibatch_size=6, samples_per_prompt=1, value_coef=0.1, temperature=0.8)
    players, drawn, advantages, returns = one_update(made)
    t, rows = drawn.trajectories, torch.arange(6)
    denominator = t.action_mask.sum()
    loss, readings = ppo.ppo_loss(players, t.take(rows), drawn, advantages, returns, rows, made.ppo, denominator, False)
    loss.backward()
    modules = (players.policy, players.value_network)
    found = [p.grad.clone() for m in modules for p in m.parameters() if p.grad is not None]
    for module in modules:
        module.zero_grad()

    terms, clipped, tokens = [], 0, 0
    for row in range(6):
        width = int(t.attention_mask[row].sum())
        length = int(t.action_mask[row].sum())
        ids = t.input_ids[row, :width]
        logits = players.policy(ids[None])[0] / 0.8
        values = players.value_network.values(ids[None])[0]
        for step in range(length):
            place = width - length + step  # of the token itself
            logprob = logits[place - 1, ids[place]] - logits[place - 1].logsumexp(0)
            ratio = torch.exp(logprob - drawn.old_logprobs[row, step])
            advantage = advantages[row, step]
            bound = min(max(ratio.item(), 0.8), 1.2) * advantage
            surrogate = ratio * advantage if (ratio * advantage).item() <= bound.item() else bound
            value, old, target = values[place - 1], drawn.values[row, step], returns[row, step]
            near = old + max(min((value - old).item(), 0.2), -0.2)
            error = (value - target) ** 2
            if abs((value - old).item()) > 0.2 and ((near - target) ** 2).item() > error.item():
                error = (near - target) ** 2
            terms.append(-surrogate + 0.1 * 0.5 * error)
            clipped += abs(ratio.item() - 1) > 0.2
            tokens += 1
    expected = torch.stack(terms).sum() / tokens
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert readings["clip_fraction"].item() == pytest.approx(clipped / tokens)
    assert 0 < clipped < tokens
    wanted = [p.grad for m in modules for p in m.parameters() if p.grad is not None]
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("value_network", ["separate", "shared"])
def test_it_makes_one_step_of_eight_micro_batches_or_one(world, monkeypatch, value_network):
    take_step = ppo.take_step
    gradients = []
    for micro_batch_size, pass_tokens in ((0, 1024), (1, 1024), (3, 1024), (0, 40)):
        monkeypatch.setattr(data, "CPU_PASS_TOKENS", pass_tokens)
        made = world(
            minibatch_size=8, ppo_epochs=1, micro_batch_size=micro_batch_size, value_network=value_network,
            entropy_coef=0.01,
        )  # fmt: skip
        players, drawn, advantages, returns = one_update(made)
        assert len(set(drawn.trajectories.action_mask.sum(1).tolist())) > 1, "lengths must differ to tell"
        seen = []

        def record(optimizer, *arguments, seen=seen, **named):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            seen.extend(p.grad.clone() for p in parameters if p.grad is not None)
            return take_step(optimizer, *arguments, **named)

        monkeypatch.setattr(ppo, "take_step", record)
        trainers = ppo.make_trainers(players, made.ppo)
        ppo.update(players, trainers, drawn, advantages, returns, made.ppo, 0, seed=0)
        gradients.append(seen)
    assert any(gradient.any() for gradient in gradients[0])
    for other in gradients[1:]:
        for a, b in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-3)


def test_it_passes_over_a_minibatch_by_length():
    minibatch, lengths = [7, 2, 5, 0, 3], [10, 1, 9, 6, 1, 5, 1, 4]  # lengths: of every row of the rollout
    # two of 10 and 9 are padded to 20 tokens; three of 6, 5 and 4 to 18
    assert ppo.passes(minibatch, lengths, 0, most_tokens=20) == [[0, 2], [3, 5, 7]]
    assert ppo.passes(minibatch, lengths, 2, most_tokens=20) == [[7, 5], [3, 2], [0]]
    assert ppo.passes(minibatch, lengths, 0, most_tokens=None) == [[7, 5, 3, 2, 0]]


def test_it_reads_adam_epsilon_from_the_optimizer_itself(world):
    made = world()
    trainers = ppo.make_trainers(ppo.make_players(made), made.ppo)
    assert list(trainers) == ["policy", "value"]
    for trainer in trainers.values():
        assert {group["eps"] for group in trainer.optimizer.param_groups} == {1e-5}


def test_it_lowers_the_learning_rate_to_zero_in_a_line(tmp_path, world):
    made = world(iterations=4, ppo_epochs=1, minibatch_size=8, value_learning_rate=1e-3)
    trace = [event["values"] for event in events(run(tmp_path, made), "metrics")]
    assert [values["learning_rate"] for values in trace] == pytest.approx([3e-4, 2.25e-4, 1.5e-4, 0.75e-4])
    assert [values["value_learning_rate"] for values in trace] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_it_trains_only_the_value_network_while_warming_up(tmp_path, world):
    for value_network in ("separate", "shared"):
        made = world(iterations=1, value_warmup_iterations=1, value_network=value_network)
        run_dir = run(tmp_path, made, name=value_network)
        before, after = checkpoint.load_policy(made.inputs.policy), checkpoint.load_policy(run_dir / "output")
        assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
        assert events(run_dir, "metrics")[0]["values"]["grad_norm" if value_network == "shared" else "value_grad_norm"]


@pytest.mark.parametrize("value_network", ["separate", "shared"])
def test_it_resumes_as_if_it_had_never_stopped(tmp_path, world, value_network):
    made = world(
        run={"checkpoint_every_steps": 1}, iterations=4, value_network=value_network, kl_target=3.0, kl_horizon=100,
        inputs={"ref_policy": str(tmp_path / "other")},
    )  # fmt: skip
    whole = run(tmp_path, made, name="whole")

    calls = []

    def stop_in_the_middle():
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(Interrupted):
        run(tmp_path, made, name="parts", should_stop=stop_in_the_middle)
    torch.manual_seed(999)  # a new process has another state
    parts = run(tmp_path, made, name="parts", resume=newest_checkpoint(tmp_path / "parts"))

    assert checkpoint.digest(parts / "output") == checkpoint.digest(whole / "output")
    timing = ("seconds_rollout", "seconds_update", "episodes_per_second")

    def figures(run_dir):
        return [
            {name: value for name, value in event["values"].items() if name not in timing}
            for event in events(run_dir, "metrics")
        ]

    assert figures(parts) == figures(whole)
    assert len({values["kl_coef"] for values in figures(whole)}) == 4, "the controller must have moved to tell"


def test_it_stops_before_the_step_when_a_loss_is_not_finite(tmp_path, world):
    made = world()
    players = ppo.make_players(made)
    drawn, _ = sample(made, players, made.ppo)
    trainers = ppo.make_trainers(players, made.ppo)
    before = [p.clone() for p in players.policy.parameters()]
    advantages = torch.full_like(drawn.values, math.nan)
    with pytest.raises(GuardStop, match="at step 1, batch 0: policy_loss is nan"):
        ppo.update(players, trainers, drawn, advantages, drawn.values, made.ppo, 0, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, players.policy.parameters(), strict=True))


def test_it_stops_on_a_flat_reward(tmp_path, world):
    judge = checkpoint.load_reward_model(tmp_path / "reward_model")
    judge.fold(0.0, 1.0)
    tokenizer = checkpoint.load_tokenizer_of(tmp_path / "policy")
    checkpoint.save_reward_model(judge, tokenizer, tmp_path / "flat")
    made = world(
        iterations=6, guard_patience=2, guard_min_eos_rate=0.0, missing_eos_score=1.0,
        inputs={"reward_model": str(tmp_path / "flat")},
    )  # fmt: skip
    with pytest.raises(GuardStop, match="flat_reward stopped the run at step 2"):
        run(tmp_path, made)


def test_it_stops_when_the_sampler_is_not_the_policy_that_is_updated(tmp_path, world, monkeypatch):
    """The fault is in the engine, not in a reading: a sampler that cools its logits behind everybody's back."""
    generate = sampling.generate
    monkeypatch.setattr(
        sampling, "generate", lambda *arguments, **named: generate(*arguments, **{**named, "temperature": 0.5})
    )
    with pytest.raises(GuardStop, match="Guard logprob_gap stopped the run at step 2"):
        run(tmp_path, world(iterations=6, guard_patience=2))


def test_it_stops_when_hardly_a_completion_ends(tmp_path, world):
    # Of 400 tokens 2 end, and only two are drawn.
    made = world(iterations=6, guard_patience=2, max_new_tokens=2, guard_min_eos_rate=0.5)
    with pytest.raises(GuardStop, match="Guard eos_rate stopped the run at step 2"):
        run(tmp_path, made)


def plain_gae(rewards, values, gamma, gae_lambda):
    """One row's advantages, as lists, by the definition: the sum of (gamma lambda)^k times the TD errors ahead."""
    errors = [r + gamma * after - v for r, v, after in zip(rewards, values, [*values[1:], 0.0], strict=True)]
    return [sum((gamma * gae_lambda) ** (k - t) * errors[k] for k in range(t, len(errors))) for t in range(len(errors))]


@pytest.mark.parametrize("whiten_rewards", [False, True])
def test_it_turns_a_rollout_into_advantages_as_the_settings_say(tmp_path, world, monkeypatch, whiten_rewards):
    """What the update is given, iteration by iteration, against plain lists of numbers."""
    made = world(
        gamma=0.9, gae_lambda=0.5, whiten_rewards=whiten_rewards, kl_coef=0.3, kl_target=1.0, kl_horizon=50,
        temperature=0.8, iterations=3, inputs={"ref_policy": str(tmp_path / "other")},
    )  # fmt: skip
    seen = []
    update = ppo.update

    def record(players, trainers, drawn, advantages, returns, *rest, **named):
        seen.append((drawn, advantages, returns, players))
        return update(players, trainers, drawn, advantages, returns, *rest, **named)

    monkeypatch.setattr(ppo, "update", record)
    trace = [event["values"] for event in events(run(tmp_path, made), "metrics")]
    kl_coef = 0.3
    drawn_before = None
    for (drawn, advantages, returns, players), values in zip(seen, trace, strict=True):
        assert values["kl_coef"] == pytest.approx(kl_coef)
        t = drawn.trajectories
        counts = t.action_mask.sum(1).tolist()
        rows, row_kl = [], []
        for row, count in enumerate(counts):
            width = int(t.attention_mask[row].sum())
            ids = t.input_ids[row, :width]
            with torch.no_grad():
                ref = (players.ref_policy(ids[None])[0] / 0.8).log_softmax(-1)
            ref = [ref[place - 1, ids[place]].item() for place in range(width - count, width)]
            own = drawn.old_logprobs[row, :count].tolist()
            assert drawn.ref_logprobs[row, :count].tolist() == pytest.approx(ref, abs=1e-4)
            row_kl.append(sum(a - b for a, b in zip(own, ref, strict=True)))
            rows.append([-kl_coef * (a - b) for a, b in zip(own, ref, strict=True)])
            rows[-1][-1] += drawn.scores[row].item()
        assert values["kl_per_completion"] == pytest.approx(sum(row_kl) / 8, abs=1e-3)
        assert values["rewards_mean"] == pytest.approx(sum(map(sum, rows)) / 8, abs=1e-3)
        if whiten_rewards:
            flat = torch.tensor([reward for row in rows for reward in row], dtype=torch.float64)
            deviation, mean = flat.std(correction=0).item(), flat.mean().item()
            rows = [[(reward - mean) / deviation + mean for reward in row] for row in rows]
        old_values = [drawn.values[row, :count].tolist() for row, count in enumerate(counts)]
        plain = [plain_gae(*pair, 0.9, 0.5) for pair in zip(rows, old_values, strict=True)]
        flat = torch.tensor([advantage for row in plain for advantage in row], dtype=torch.float64)
        for row, count in enumerate(counts):
            white = [(a - flat.mean().item()) / flat.std(correction=0).item() for a in plain[row]]
            assert advantages[row, :count].tolist() == pytest.approx(white, abs=2e-3)
            expected = [a + v for a, v in zip(plain[row], old_values[row], strict=True)]
            assert returns[row, :count].tolist() == pytest.approx(expected, abs=1e-3)
        residual = flat  # returns less values
        all_returns = torch.cat([returns[row, :count] for row, count in enumerate(counts)]).double()
        explained = 1 - residual.var(correction=0) / all_returns.var(correction=0)
        assert values["explained_variance"] == pytest.approx(explained.item(), abs=2e-3)
        # The controller moves by the KL just measured: at most a fifth of 8 of 50 episodes.
        kl_coef *= 1 + max(-0.2, min(0.2, values["kl_per_completion"] / 1.0 - 1)) * 8 / 50
        assert drawn_before is None or t.actions.tolist() != drawn_before, "each iteration must draw anew"
        drawn_before = t.actions.tolist()
    assert kl_coef != 0.3


def test_it_reads_means_over_the_tokens_that_count(tmp_path, world):
    made = world(samples_per_prompt=2, temperature=0.7, inputs={"ref_policy": str(tmp_path / "other")})
    players = ppo.make_players(made)
    players.tokenizer.stop_ids = tuple(range(0, 400, 5))  # so that lengths differ
    drawn, readings = sample(made, players, made.ppo)
    t = drawn.trajectories
    entropies, kls, values = [], [], []
    for row in range(8):
        width, count = int(t.attention_mask[row].sum()), int(t.action_mask[row].sum())
        ids = t.input_ids[row : row + 1, :width]
        with torch.no_grad():
            p = (players.policy(ids)[0] / 0.7).double().softmax(-1)[width - count - 1 : width - 1]
            q = (players.ref_policy(ids)[0] / 0.7).double().softmax(-1)[width - count - 1 : width - 1]
            values += players.value_network.values(ids)[0, width - count - 1 : width - 1].tolist()
        entropies += (-(p * p.log()).sum(-1)).tolist()
        kls.append((p * (p / q).log()).sum().item())
    lengths = t.action_mask.sum(1).tolist()
    assert len(set(lengths)) > 1, "lengths must differ to tell"
    assert readings["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-4)
    assert readings["exact_kl_per_completion"] == pytest.approx(sum(kls) / 8, rel=1e-3)
    assert readings["value_mean"] == pytest.approx(sum(values) / len(values), rel=1e-3)
    assert readings["length_mean"] == sum(lengths) / 8
    assert readings["score_deviation"] == pytest.approx(drawn.scores.double().std(correction=0).item(), rel=1e-4)


def test_it_reads_how_far_an_update_went(world):
    made = world(batch_size=6, minibatch_size=6)
    players, drawn, advantages, returns = one_update(made)
    t, rows = drawn.trajectories, torch.arange(6)
    now = ppo.look_at(players, t, temperature=1.0)
    mask = t.action_mask
    ratios = [
        (new - old) for new, old in zip(now.logprobs[mask].tolist(), drawn.old_logprobs[mask].tolist(), strict=True)
    ]
    _, readings = ppo.ppo_loss(players, t.take(rows), drawn, advantages, returns, rows, made.ppo, mask.sum(), False)
    # Schulman's estimate: exp(log ratio) - 1 - log ratio
    expected = sum(math.exp(r) - 1 - r for r in ratios) / len(ratios)
    assert readings["approx_kl"].item() == pytest.approx(expected, rel=1e-3)
    assert readings["log_ratio"].item() == pytest.approx(sum(map(abs, ratios)) / len(ratios), rel=1e-3)
    moved = (now.values - drawn.values)[mask].abs() > 0.2
    assert readings["value_clip_fraction"].item() == pytest.approx(moved.double().mean().item())


class Unsure:
    """Members that disagree: mean 0, 1, 2, ... and deviation 0.5, 1, 1.5, ..."""

    def score(self, conversations):
        mean = torch.arange(float(len(conversations)))
        return scorer.Scores(mean, (mean + 1) / 2, mean[:, None])


def test_it_takes_doubt_off_a_score_and_clips_what_is_left(world, monkeypatch):
    made = world(uncertainty_coef=4.0, score_clip=3.5)
    with pytest.raises(config.ConfigError, match=r"there is one only; .* or set ppo\.uncertainty_coef=0"):
        ppo.make_players(made)
    players = dataclasses.replace(ppo.make_players(world()), scorer=Unsure())
    monkeypatch.setattr(rollout, "scores_with_ends", lambda scores, ended, missing: scores)
    drawn, readings = sample(made, players, made.ppo)
    # k - 4 * (k + 1) / 2 = -2 - k, not below -3.5
    assert drawn.scores.tolist() == [-2.0, -3.0, *[-3.5] * 6]
    assert readings["score_mean"] == 3.5  # as the scorer gave them
    assert readings["ensemble_deviation"] == pytest.approx(2.25)


@pytest.mark.parametrize("logprobs", ["captured", "recomputed"])
def test_it_keeps_the_logprobs_that_the_setting_names(world, monkeypatch, logprobs):
    generate = sampling.generate

    def shifted(*arguments, **named):
        return [
            dataclasses.replace(one, logprobs=[value - 0.125 for value in one.logprobs])
            for one in generate(*arguments, **named)
        ]

    monkeypatch.setattr(sampling, "generate", shifted)
    made = world(logprobs=logprobs)
    players = ppo.make_players(made)
    drawn, readings = sample(made, players, made.ppo)
    now = ppo.look_at(players, drawn.trajectories, temperature=1.0)
    off = (drawn.old_logprobs - now.logprobs)[drawn.trajectories.action_mask]
    torch.testing.assert_close(off, torch.full_like(off, -0.125 if logprobs == "captured" else 0.0), atol=1e-5, rtol=0)
    assert readings["logprob_gap"] == pytest.approx(0.125, abs=1e-5)


def test_it_keeps_each_sample_with_its_prompt(world, monkeypatch):
    made = world(samples_per_prompt=4)
    players = ppo.make_players(made)
    asked = []

    def numbered(policy, prompts, *, samples_per_prompt, **named):
        asked.extend(prompts)
        return [
            sampling.Sample([100 + number, 50 + copy], [-1.0] * 2, "length")
            for number in range(len(prompts))
            for copy in range(samples_per_prompt)
        ]

    monkeypatch.setattr(sampling, "generate", numbered)
    drawn, _ = sample(made, players, made.ppo)
    assert len(asked) == 2
    t = drawn.trajectories
    for row in range(8):
        ids = t.input_ids[row][t.attention_mask[row]].tolist()
        assert ids == [*asked[row // 4], 100 + row // 4, 50 + row % 4]


def test_it_makes_minibatches_anew_in_every_pass(tmp_path, world, monkeypatch):
    orders = []
    loss = ppo.ppo_loss

    def record(players, part, drawn, advantages, returns, rows, settings, denominator, is_warmup):
        orders.append(tuple(sorted(rows)))
        # A step's mean is over its own tokens, whatever the rest of the rollout holds.
        assert denominator == drawn.trajectories.action_mask[rows].sum()
        return loss(players, part, drawn, advantages, returns, rows, settings, denominator, is_warmup)

    monkeypatch.setattr(ppo, "ppo_loss", record)
    run(tmp_path, world(iterations=2, ppo_epochs=2))
    passes = [orders[start : start + 2] for start in range(0, len(orders), 2)]
    assert len(passes) == 4
    for minibatches in passes:
        assert sorted(row for minibatch in minibatches for row in minibatch) == list(range(8))
    assert len({frozenset(minibatches) for minibatches in passes}) == 4


def test_it_rewards_entropy_only_where_asked(world):
    plain, fond = world(minibatch_size=8), world(minibatch_size=8, entropy_coef=0.25)
    players, drawn, advantages, returns = one_update(plain)
    t, rows = drawn.trajectories, torch.arange(8)
    entropy = rollout.masked_mean(ppo.look_at(players, t, temperature=1.0).entropy, t.action_mask).item()
    first, second = (
        ppo.ppo_loss(players, t.take(rows), drawn, advantages, returns, rows, made.ppo, t.action_mask.sum(), False)[0]
        for made in (plain, fond)
    )
    assert (second - first).item() == pytest.approx(-0.25 * entropy, rel=1e-3)


def test_it_lowers_the_learning_rate_over_every_step_of_every_pass(tmp_path, world):
    trace = [event["values"] for event in events(run(tmp_path, world(iterations=2, ppo_epochs=2)), "metrics")]
    # 2 iterations x 2 passes x 2 minibatches: steps 0 to 3, then 4 to 7, of 8
    assert [values["learning_rate"] for values in trace] == pytest.approx([3e-4 * (1 - 1.5 / 8), 3e-4 * (1 - 5.5 / 8)])


def test_it_never_rolls_out_prompts_that_measure(tmp_path, world):
    made = world()
    players = ppo.make_players(made)
    prompts, _ = ppo.load_prompts(made, players)
    assert [prompt.text for prompt in prompts] == ["a shy fox", "a brave owl", "a small old bear"]
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    path = tmp_path / "without.jsonl"
    path.write_text("".join(json.dumps({**row, "pool": row["pool"].replace("ppo", "sft")}) + "\n" for row in rows))
    prompts, note = ppo.load_prompts(world(inputs={"prompts": str(path)}), players)
    assert "a clever mouse" not in [prompt.text for prompt in prompts]
    assert note == "No prompt belongs to the pool ppo, so rollouts take the 3 prompts of all pools but eval, of 4."
    path.write_text(json.dumps({**rows[0], "pool": "eval"}) + "\n")
    with pytest.raises(config.ConfigError, match="only prompts of the pool eval"):
        ppo.load_prompts(world(inputs={"prompts": str(path)}), players)


def test_it_counts_sick_iterations_across_a_resume(tmp_path, world):
    judge = checkpoint.load_reward_model(tmp_path / "reward_model")
    judge.fold(0.0, 1.0)
    checkpoint.save_reward_model(judge, checkpoint.load_tokenizer_of(tmp_path / "policy"), tmp_path / "flat")
    made = world(
        iterations=6, guard_patience=3, guard_min_eos_rate=0.0, missing_eos_score=1.0,
        inputs={"reward_model": str(tmp_path / "flat")},
    )  # fmt: skip
    calls = []

    def stop_after_two():
        calls.append(1)
        return len(calls) == 2

    with pytest.raises(Interrupted):
        run(tmp_path, made, should_stop=stop_after_two)
    with pytest.raises(GuardStop, match="flat_reward stopped the run at step 3"):
        run(tmp_path, made, resume=newest_checkpoint(tmp_path / "run"))


def test_it_takes_every_prompt_once_before_any_again(world):
    settings = world(batch_size=4, minibatch_size=4, samples_per_prompt=2).ppo
    prompts = list(range(5))
    taken = [prompt for iteration in range(5) for prompt in ppo.take_prompts(prompts, iteration, settings, seed=1)]
    assert sorted(taken[:5]) == sorted(taken[5:]) == prompts
    assert taken[:5] != taken[5:]


def test_it_names_what_is_missing(tmp_path, world):
    with pytest.raises(config.ConfigError, match=r"ppo needs inputs\.reward_model"):
        run(tmp_path, world(inputs={"reward_model": ""}))


def test_it_refuses_prompts_that_leave_no_room(tmp_path, world):
    with pytest.raises(config.ConfigError, match=r"lower ppo\.max_new_tokens"):
        run(tmp_path, world(max_new_tokens=60))


@pytest.mark.parametrize("who", ["ref_policy", "reward_model"])
def test_it_counts_the_room_of_every_network(tmp_path, world, make_policy, story_tokenizer, who):
    short = make_policy(vocab_size=story_tokenizer.vocab_size, max_positions=16)
    if who == "ref_policy":
        checkpoint.save_policy(short, story_tokenizer, tmp_path / "short")
    else:
        checkpoint.save_reward_model(RewardModel(short, ScalarHead(32)), story_tokenizer, tmp_path / "short")
    with pytest.raises(config.ConfigError, match=r"all read 16, so with ppo\.max_new_tokens=10 it may have 6"):
        run(tmp_path, world(inputs={who: str(tmp_path / "short")}))


def test_it_writes_the_metrics_that_the_page_documents(tmp_path, world):
    tokenizer = checkpoint.load_tokenizer_of(tmp_path / "policy")
    judge = checkpoint.load_reward_model(tmp_path / "reward_model")
    checkpoint.save_reward_model([judge, judge], tokenizer, tmp_path / "ensemble")
    made = world(
        iterations=1, uncertainty_coef=0.5, score_clip=3.0, inputs={"reward_model": str(tmp_path / "ensemble")}
    )
    values = events(run(tmp_path, made), "metrics")[0]["values"]
    assert set(values) == documented("ppo")
    assert None not in values.values()


class EvenTokens:
    """A score that a bandit can learn: the share of even ids among the last four, as a deviation from a half."""

    def score(self, conversations):
        shares = [sum(i % 2 == 0 for i in talk.token_ids[-4:]) / 4 for talk in conversations]
        mean = torch.tensor(shares) * 4 - 2
        return scorer.Scores(mean, None, mean[:, None])


def learn_even_tokens(tmp_path, world, monkeypatch, **settings):
    make_players = ppo.make_players
    monkeypatch.setattr(
        ppo, "make_players", lambda config: dataclasses.replace(make_players(config), scorer=EvenTokens())
    )
    run_settings = {"seed": settings.pop("seed", 0)}
    toy = checkpoint.load_policy(tmp_path / "policy")
    with torch.no_grad():  # weights of its own, so that how a policy is initialised changes nothing here
        for number, parameter in enumerate(toy.parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0, 0.12, generator=torch.Generator().manual_seed(number))
    checkpoint.save_policy(toy, checkpoint.load_tokenizer_of(tmp_path / "policy"), tmp_path / "toy")
    inputs = {"policy": str(tmp_path / "toy"), "ref_policy": str(tmp_path / "toy")}
    made = world(
        run=run_settings, inputs=inputs, **{
            "iterations": 20, "batch_size": 64, "minibatch_size": 32, "max_new_tokens": 4, "missing_eos_score": 0.0,
            "ppo_epochs": 2, "sample_prompts": 0, "guard_min_eos_rate": 0.0, "optim": {"learning_rate": 6e-3},
            **settings,
        },
    )  # fmt: skip
    run_dir = run(tmp_path, made, name=f"bandit-{run_settings['seed']}")
    return [event["values"] for event in events(run_dir, "metrics")]


@pytest.fixture
def unending(monkeypatch):
    """Every completion counts as ended, so that the toy is about its score alone."""
    monkeypatch.setattr(rollout, "scores_with_ends", lambda scores, ended, missing: scores)


@pytest.mark.parametrize("seed", range(4))
def test_it_learns_a_bandit_on_every_seed(tmp_path, world, monkeypatch, unending, seed):
    trace = learn_even_tokens(tmp_path, world, monkeypatch, kl_coef=0.01, seed=seed)
    first, last = trace[0]["score_mean"], trace[-1]["score_mean"]
    assert first < 0.7
    assert last > 1.6, f"from {first:.2f} to {last:.2f}"


def test_it_stays_at_the_reference_when_kl_costs_everything(tmp_path, world, monkeypatch, unending):
    slow = {"optim": {"learning_rate": 1e-3}, "iterations": 10}
    free = learn_even_tokens(tmp_path, world, monkeypatch, kl_coef=0.0, seed=0, **slow)
    held = learn_even_tokens(tmp_path, world, monkeypatch, kl_coef=50.0, seed=1, **slow)
    assert free[-1]["exact_kl_per_completion"] > 0.5
    assert held[-1]["exact_kl_per_completion"] < 0.2
