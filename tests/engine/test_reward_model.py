"""The reward model: what it learns from rankings, its scale, ensembles, and resuming."""

import json
import random

import pytest
import torch

from tests.engine.metrics_page import documented
from training.engine import (
    calibration,
    checkpoint,
    config,
    data,
    distributed,
    losses,
    reward_model,
    rundir,
    sampling,
    scorer,
    sections,
)
from training.engine.heads import RewardModel, ScalarHead
from training.engine.progress import GuardStopped, Interrupted, newest_checkpoint

ANIMALS, TRAITS = ("fox", "owl", "bear", "mouse"), ("shy", "brave", "small", "clever")
ENDINGS = {"shared it.": 2, "found it.": 1, "lost it.": 0}  # how well people like them


def ranking(number, *, order=None, weight=1.0, purpose="train"):
    """People like some endings better than others, whatever the prompt."""
    animal, trait = ANIMALS[number % 4], TRAITS[number // 4 % 4]
    texts = list(ENDINGS)[number % 3 :] + list(ENDINGS)[: number % 3]
    best_first = [[f"c{i}"] for i in sorted(range(3), key=lambda i: -ENDINGS[texts[i]])]
    return {
        "schema": "plumbline.ranking/1",
        "id": f"r{number}",
        "version": 1,
        "purpose": purpose,
        "prompt": [{"role": "user", "content": f"a {trait} {animal}"}],
        "completions": [
            {"id": f"c{i}", "messages": [{"role": "assistant", "content": f"The {animal} {text}"}]}
            for i, text in enumerate(texts)
        ],
        "ranking": best_first if order is None else order,
        "unranked": [],
        "weight": weight,
        "group": f"{trait} {animal}",
    }


@pytest.fixture
def world(tmp_path, make_policy, story_tokenizer):
    """world(rankings=…, inputs=…, **reward_model settings) -> a Config over a tiny policy."""
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, tmp_path / "policy")

    def make(rankings=None, inputs=None, run=None, ppo=None, **settings):
        rankings = [ranking(number) for number in range(32)] if rankings is None else rankings
        path = tmp_path / "rankings.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rankings))
        settings = {"epochs": 4, "batch_size": 4, "validation_share": 0.2, "optim": {"learning_rate": 3e-3}, **settings}
        return config.build(
            {
                "run": {"device": "cpu", "seed": 2, **(run or {})},
                "inputs": {"policy": str(tmp_path / "policy"), "rankings": str(path), **(inputs or {})},
                "reward_model": settings,
                "ppo": ppo or {},
            }
        )

    return make


@pytest.fixture
def compute():
    return distributed.Compute(sections.RunConfig(device="cpu"))


def run(tmp_path, settings, name="run", **arguments):
    run_dir = rundir.create(tmp_path / name, config.resolved(settings))
    reward_model.train(settings, run_dir, **arguments)
    return run_dir


def events(run_dir, kind):
    return [event for event in rundir.read_events(run_dir)[0] if event["type"] == kind]


def test_it_learns_what_people_like_on_prompts_it_has_not_seen(tmp_path, world):
    run_dir = run(tmp_path, world())
    finished = events(run_dir, "finished")[0]
    assert finished["summary"]["validation_accuracy"] > 0.9
    assert finished["digest"] == checkpoint.digest(run_dir / "output")
    metrics = [event["values"] for event in events(run_dir, "metrics")]
    assert metrics[-1]["loss"] < metrics[0]["loss"]
    assert sum("validation_accuracy" in values for values in metrics) == 4
    assert finished["summary"]["rankings"] + finished["summary"]["validation_rankings"] == 32


def test_it_has_scores_of_mean_zero_and_deviation_one_after_a_reload(tmp_path, world):
    settings = world()
    run_dir = run(tmp_path, settings)
    judge = checkpoint.load_reward_model(run_dir / "output")
    tokenizer = checkpoint.load_tokenizer_of(run_dir / "output")
    comparables, _ = reward_model.load_comparables(settings, tokenizer, 64)
    training, _ = data.split_by_group(comparables, 0.2, seed=2)
    scores = scorer.score_rows(judge.requires_grad_(False), [row for item in training for row in item.rows])
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert "normalised on the" in events(run_dir, "log")[-1]["message"]


def test_it_normalises_on_samples_of_the_starting_policy_where_prompts_are_given(tmp_path, world):
    prompts = tmp_path / "prompts.jsonl"
    rows = [("reward", "a shy fox"), ("reward", "a brave owl"), ("ppo", "a small bear")]
    prompts.write_text(
        "".join(
            json.dumps({"messages": [{"role": "user", "content": text}], "pool": pool}) + "\n" for pool, text in rows
        )
    )
    settings = world(inputs={"prompts": str(prompts)}, epochs=1, normalise_new_tokens=8)
    tokenizer = checkpoint.load_tokenizer_of(tmp_path / "policy")
    found, note, _ = reward_model.reference_rows(settings, tokenizer, [], distributed.Compute(settings.run))
    assert note.startswith("Scores are normalised on 2 samples of the starting policy for prompts of the pool reward")
    run_dir = run(tmp_path, settings)
    scores = scorer.score_rows(checkpoint.load_reward_model(run_dir / "output").requires_grad_(False), found)
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_it_normalises_on_whole_samples_with_their_ends(tmp_path, world, monkeypatch):
    path = tmp_path / "prompts.jsonl"
    texts = ["a fox", "an owl", "a bear", "a mouse", "fox " * 80]  # the last leaves no room for an answer
    path.write_text("".join(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n" for text in texts))
    settings = world(inputs={"prompts": str(path)})
    tokenizer = checkpoint.load_tokenizer_of(tmp_path / "policy")
    asked = {}

    def references(*reasons):
        def fake(policy, prompts, **named):
            asked["prompts"] = prompts
            return [
                sampling.Sample([9, 7] if reason == "stop" else [9, 9], [-1.0] * 2, reason)
                for prompt, reason in zip(prompts, reasons, strict=True)
            ]

        monkeypatch.setattr(sampling, "generate", fake)
        return reward_model.reference_rows(settings, tokenizer, [], distributed.Compute(settings.run))

    rows, note, level = references("stop", "length", "stop", "stop")
    assert "on 3 samples" in note and "; 1 of 4 were cut off after 72 tokens and are left out." in note
    assert level == "info"
    # Those that ended, and as PPO scores them: with the prompt before and the stop token after.
    assert rows == [[*asked["prompts"][i], 9, 7] for i in (0, 2, 3)]
    # Where most were cut off, all stand, and a warning says so.
    rows, note, level = references("stop", "length", "length", "length")
    assert len(rows) == 4 and level == "warning"
    assert "but 3 of 4 were cut off after 72 tokens" in note and "raise ppo.max_new_tokens" in note
    assert references("stop", "stop", "stop", "stop")[1].endswith("for prompts of the file.")


def test_it_normalises_on_samples_as_long_and_as_warm_as_ppos(tmp_path, world, monkeypatch):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a fox"}]}) + "\n")
    asked = []

    def fake(policy, prompts, **named):
        asked.append((named["max_new_tokens"], named["temperature"]))
        return [sampling.Sample([9, 7], [-1.0] * 2, "stop") for _ in prompts]

    monkeypatch.setattr(sampling, "generate", fake)
    for settings in (
        world(inputs={"prompts": str(path)}),
        world(inputs={"prompts": str(path)}, ppo={"max_new_tokens": 31, "temperature": 0.7}),
        world(inputs={"prompts": str(path)}, ppo={"max_new_tokens": 31}, normalise_new_tokens=5),
    ):
        tokenizer = checkpoint.load_tokenizer_of(tmp_path / "policy")
        reward_model.reference_rows(settings, tokenizer, [], distributed.Compute(settings.run))
    assert asked == [(72, 1.0), (31, 0.7), (5, 1.0)]


def test_it_normalises_on_ranked_completions_where_no_prompt_fits(tmp_path, world):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "fox " * 80}]}) + "\n")
    run_dir = run(tmp_path, world(inputs={"prompts": str(path)}, epochs=1))
    assert "No prompt fits the policy" in events(run_dir, "log")[-1]["message"]


def test_it_takes_rankings_in_an_order_of_its_own_for_each_epoch_and_member(tmp_path, world, monkeypatch):
    taken = []
    learn = reward_model.learn

    def record(member, batch, **named):
        taken.append([(tuple(item.prompt), item.group) for item in batch])
        return learn(member, batch, **named)

    monkeypatch.setattr(reward_model, "learn", record)
    run(tmp_path, world([ranking(n) for n in range(16)], members=2, epochs=2, validation_share=0.0))
    epochs = [[item for batch in taken[start : start + 4] for item in batch] for start in range(0, 16, 4)]
    assert len(taken) == 16
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 16 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(("epochs", "min_steps", "steps"), [(1, 0, 3), (1, 7, 9), (4, 7, 12)])
def test_it_reads_few_rankings_again_until_it_took_enough_steps(tmp_path, world, epochs, min_steps, steps):
    settings = world([ranking(n) for n in range(12)], epochs=epochs, min_steps=min_steps, validation_share=0.0)
    assert events(run(tmp_path, settings), "metrics")[-1]["step"] == steps


def test_it_stops_where_the_rankings_taught_it_nothing(tmp_path, world):
    orders = random.Random(3)
    rows = [ranking(n) for n in range(80)]
    for row in rows:
        names = [item["id"] for item in row["completions"]]
        row["ranking"] = [[name] for name in orders.sample(names, len(names))]
    settings = {"epochs": 1, "validation_share": 0.5, "guard_min_accuracy": 0.62}
    with pytest.raises(GuardStopped, match="held-out comparisons right, where chance is 50%"):
        run(tmp_path, world(rows, **settings))
    # Few comparisons cannot tell, and what is learned passes.
    run(tmp_path, world(rows[:40], **settings), name="few")
    run(tmp_path, world([ranking(n) for n in range(80)], **settings), name="learned")


def test_it_scores_in_float32_whatever_the_arithmetic_of_the_trunk():
    head = ScalarHead(32, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(4, 5, 32, generator=torch.Generator().manual_seed(1))
    expected = (hidden.double() @ head.weight[0].double()).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(hidden)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=1e-6)


def test_it_gives_each_member_a_head_of_its_own(world):
    heads = [reward_model.fresh_member(world(), number).head.weight for number in (0, 1, 0)]
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


def test_it_reports_the_accuracy_of_what_it_saved(tmp_path, world, compute):
    settings = world(members=2, epochs=1)
    run_dir = run(tmp_path, settings)
    tokenizer = checkpoint.load_tokenizer_of(run_dir / "output")
    comparables, _ = reward_model.load_comparables(settings, tokenizer, 64)
    _, validation = data.split_by_group(comparables, 0.2, seed=2)
    members = [member.eval().requires_grad_(False) for member in checkpoint.load_reward_models(run_dir / "output")]
    right = total = 0.0
    for item in validation:
        scores = [sum(member(torch.tensor([row])).item() for member in members) / 2 for row in item.rows]
        rank = {index: place for place, group in enumerate(item.order) for index in group}
        for a in rank:
            for b in rank:
                if rank[a] < rank[b]:
                    total += 1
                    right += (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b])
    assert events(run_dir, "finished")[0]["summary"]["validation_accuracy"] == pytest.approx(right / total, abs=1e-6)


def test_it_starts_its_head_with_the_deviation_of_the_paper(tmp_path, world, make_policy, story_tokenizer):
    wide = make_policy(vocab_size=story_tokenizer.vocab_size, hidden_size=1024, intermediate_size=8, n_layers=1)
    checkpoint.save_policy(wide, story_tokenizer, tmp_path / "wide")
    member = reward_model.fresh_member(world(inputs={"policy": str(tmp_path / "wide")}), 0)
    # The deviation of 1,024 draws is known to about 2.2%.
    assert member.head.weight.std().item() * 1025**0.5 == pytest.approx(1, abs=0.09)


def test_it_puts_all_comparisons_of_a_ranking_in_one_element(world, compute):
    """The gradient of a batch is that of the plain K-wise losses, ranking by ranking, comparison by comparison."""
    settings = world([ranking(0), ranking(1, order=[["c1"], ["c0", "c2"]]), ranking(2, weight=0.5)])
    tokenizer = checkpoint.load_tokenizer_of(settings.inputs.policy)
    batch, _ = reward_model.load_comparables(settings, tokenizer, 64)
    member = reward_model.fresh_member(settings, 0)
    readings = reward_model.learn(member, batch, compute=compute, lm_coef=0.0)
    found = [p.grad.clone() for p in member.parameters() if p.grad is not None]
    member.zero_grad()
    total = sum(
        item.weight
        * losses.kwise_ranking_loss(torch.cat([member(torch.tensor([row])) for row in item.rows]), item.order)
        for item in batch
    )
    (total / 2.5).backward()
    assert readings["loss"] == pytest.approx(total.item() / 2.5, abs=1e-5)
    for ours, theirs in zip(found, [p.grad for p in member.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_it_keeps_the_graph_of_one_pass_only(world, compute, monkeypatch):
    """A step of many passes has the gradient of a step of one, and each pass has given its own before the next."""
    settings = world([ranking(number, weight=1.0 + number % 2) for number in range(6)])
    batch, _ = reward_model.load_comparables(settings, checkpoint.load_tokenizer_of(settings.inputs.policy), 64)
    read, gradients, readings = reward_model.read, [], []
    for most in (10_000, 1):
        member = reward_model.fresh_member(settings, 0)
        given = []

        def record(member, part, given=given, **named):
            given.append(member.head.weight.grad is not None)
            return read(member, part, **named)

        monkeypatch.setattr(data, "CPU_PASS_TOKENS", most)
        monkeypatch.setattr(reward_model, "read", record)
        readings.append(reward_model.learn(member, batch, compute=compute, lm_coef=0.5))
        gradients.append([p.grad for p in member.parameters() if p.grad is not None])
    assert given == [False, True, True, True, True, True]
    assert readings[1] == pytest.approx(readings[0], rel=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_it_has_one_member_on_the_device_at_a_time():
    class Placed(torch.nn.Linear):
        """Knows where it was sent, on a machine that has no second device."""

        where = "cpu"

        def to(self, device):
            self.where = device
            return self

        def cpu(self):
            return self.to("cpu")

    members = [Placed(2, 1) for _ in range(3)]
    turn = reward_model.Turn(members, sections.OptimConfig(), "cuda")
    turn.take(0)
    first = turn.optimizer
    turn.take(0)
    assert turn.optimizer is first
    turn.take(1)
    assert [member.where for member in members] == ["cpu", "cuda", "cpu"]
    assert turn.member is members[1] and turn.optimizer.parameters()[0] is members[1].weight
    reward_model.bring(members, 2, "cuda")
    assert [member.where for member in members] == ["cpu", "cpu", "cuda"]
    turn.end()
    assert turn.optimizer is None and {member.where for member in members} == {"cpu"}


def test_it_has_let_the_optimizer_go_before_it_samples(tmp_path, world, monkeypatch):
    turns, reference_rows = [], reward_model.reference_rows

    class Watched(reward_model.Turn):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            turns.append(self)

    def sample(*arguments):
        assert turns[0].optimizer is None
        return reference_rows(*arguments)

    monkeypatch.setattr(reward_model, "Turn", Watched)
    monkeypatch.setattr(reward_model, "reference_rows", sample)
    run(tmp_path, world(epochs=1))


def test_the_mean_of_an_ensemble_has_mean_zero_and_deviation_one(tmp_path, world):
    settings = world(members=3, epochs=1)
    run_dir = run(tmp_path, settings)
    members = [member.requires_grad_(False) for member in checkpoint.load_reward_models(run_dir / "output")]
    comparables, _ = reward_model.load_comparables(settings, checkpoint.load_tokenizer_of(run_dir / "output"), 64)
    training, _ = data.split_by_group(comparables, 0.2, seed=2)
    scores = torch.stack([scorer.score_rows(m, [row for item in training for row in item.rows]) for m in members])
    assert scores.mean(0).mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.mean(0).std(correction=0).item() == pytest.approx(1, abs=1e-4)
    deviations = scores.std(1, correction=0)
    assert deviations.max() > 1.005, "members that differ cancel each other out in part"
    torch.testing.assert_close(deviations, deviations.mean().expand(3), atol=1e-4, rtol=1e-4)


def test_it_adds_the_language_model_loss_of_the_best_completions(world, compute):
    settings = world([ranking(0), ranking(1, order=[["c0", "c1"], ["c2"]])])
    tokenizer = checkpoint.load_tokenizer_of(settings.inputs.policy)
    batch, _ = reward_model.load_comparables(settings, tokenizer, 64)
    member = reward_model.fresh_member(settings, 0)
    readings = reward_model.learn(member, batch, compute=compute, lm_coef=0.5)
    nats, tokens = 0.0, 0
    for item in batch:
        for index in item.order[0]:
            row = item.rows[index]
            logprobs = member.trunk(torch.tensor([row]))[0].log_softmax(-1)
            for place in range(len(item.prompt), len(row)):
                nats -= logprobs[place - 1, row[place]].item()
                tokens += 1
    assert readings["lm_loss"] == pytest.approx(nats / tokens, rel=1e-5)


def test_it_reports_where_it_is_most_surely_wrong(tmp_path, world):
    # The rankings of one held-out prompt say the opposite of all others.
    rows = [ranking(number) for number in range(32)]
    settings = world(rows)
    comparables, _ = reward_model.load_comparables(settings, checkpoint.load_tokenizer_of(settings.inputs.policy), 64)
    held_out = min(item.group for item in data.split_by_group(comparables, 0.2, seed=2)[1])
    rows = [{**row, "ranking": row["ranking"][::-1]} if row["group"] == held_out else row for row in rows]
    run_dir = run(tmp_path, world(rows))
    report = json.loads((run_dir / "report.json").read_text())
    trait, animal = held_out.split()
    worst = report["confident_errors"][0]
    assert (worst["chosen"], worst["rejected"]) == (f"The {animal} lost it.", f"The {animal} shared it.")
    assert f"a {trait} {animal}" in worst["prompt"] and worst["margin"] < -1
    assert 0.1 < report["validation_ece"] <= 0.5
    assert -1 <= report["validation_length_correlation"] <= 1
    summary = events(run_dir, "finished")[0]["summary"]
    assert {name: report[name] for name in summary} == summary


def test_it_measures_accuracy_by_hand():
    # pairs (0, 1), (0, 2), (1, 2); scores 1, 2, 1: wrong, equal (a half), right
    comparisons = losses.collate_comparisons([(3, [[0], [1], [2]])])
    margins = calibration.margins(torch.tensor([1.0, 2.0, 1.0]), comparisons)
    assert margins.tolist() == [-1.0, 0.0, 1.0]
    assert calibration.accuracy(margins) == pytest.approx(0.5)


def test_it_leaves_out_what_compares_nothing_and_says_so(tmp_path, world):
    rows = [ranking(n) for n in range(8)]
    rows += [ranking(8, weight=0.0), ranking(9, order=[["c0", "c1", "c2"]])]
    run_dir = run(tmp_path, world(rows, epochs=1))
    assert events(run_dir, "log")[0]["message"] == "Left out of 10 rankings: 1 without weight, 1 of ties only."
    with pytest.raises(data.DataError, match="no ranking to learn from"):
        run(tmp_path, world([ranking(9, order=[["c0", "c1", "c2"]])]))


@pytest.mark.parametrize("purpose", ["eval", "gold"])
def test_it_refuses_judgments_that_measure(tmp_path, world, purpose):
    with pytest.raises(data.DataError, match="must never train"):
        run(tmp_path, world([ranking(0), ranking(1, purpose=purpose)]))


def test_it_keeps_validation_prompts_unseen(world):
    settings = world()
    comparables, _ = reward_model.load_comparables(settings, checkpoint.load_tokenizer_of(settings.inputs.policy), 64)
    training, validation = data.split_by_group(comparables, 0.2, seed=2)
    assert validation
    assert {item.group for item in training}.isdisjoint(item.group for item in validation)
    assert {tuple(item.prompt) for item in training}.isdisjoint(tuple(item.prompt) for item in validation)


def test_it_saves_an_ensemble_that_the_scorer_loads(tmp_path, world):
    settings = world(members=2, epochs=2)
    run_dir = run(tmp_path, settings)
    judge = scorer.load(run_dir / "output", policy_path=settings.inputs.policy)
    tokenizer = checkpoint.load_tokenizer_of(settings.inputs.policy)
    comparables, _ = reward_model.load_comparables(settings, tokenizer, 64)
    talks = [scorer.Conversation(messages=[], token_ids=row) for row in comparables[0].rows]
    scores = judge.score(talks)
    members = checkpoint.load_reward_models(run_dir / "output")
    assert scores.components.shape == (3, 2)
    for row, talk in enumerate(talks):
        for column, member in enumerate(members):
            expected = member(torch.tensor([talk.token_ids])).item()
            assert scores.components[row, column].item() == pytest.approx(expected, abs=1e-5)
    first, second = scores.components.unbind(1)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(scores.mean, (first + second) / 2)
    torch.testing.assert_close(scores.std, (first - second).abs() / 2**0.5)


@pytest.mark.parametrize("members", [1, 2])
def test_it_resumes_as_if_it_had_never_stopped(tmp_path, world, members):
    settings = world([ranking(n) for n in range(12)], members=members, epochs=2, lm_coef=0.1)
    whole = run(tmp_path, settings, name="whole")
    steps = len(events(whole, "metrics"))
    calls = []

    def stop_late():
        calls.append(1)
        return len(calls) == steps - 2

    with pytest.raises(Interrupted):
        run(tmp_path, settings, name="parts", should_stop=stop_late)
    torch.manual_seed(999)
    parts = run(tmp_path, settings, name="parts", resume=newest_checkpoint(tmp_path / "parts"))
    assert checkpoint.digest(parts / "output") == checkpoint.digest(whole / "output")
    assert [e["values"]["loss"] for e in events(parts, "metrics")] == [
        e["values"]["loss"] for e in events(whole, "metrics")
    ]


def test_it_encodes_anew_where_the_reward_model_has_another_tokenizer(tmp_path, world, make_policy):
    from tests.engine.conftest import STORIES
    from training.engine import tokenizer as tokenizers

    other = tokenizers.train(STORIES[:5], vocab_size=300)
    judge = RewardModel(make_policy(vocab_size=other.vocab_size), ScalarHead(32))
    checkpoint.save_reward_model(judge, other, tmp_path / "foreign")
    settings = world()
    scoring = scorer.load(tmp_path / "foreign", policy_path=settings.inputs.policy)
    messages = [{"role": "user", "content": "a shy fox"}, {"role": "assistant", "content": "The fox shared it."}]
    found = scoring.score([scorer.Conversation(messages=messages, token_ids=[1, 2, 3])]).mean
    ids = [*other.encode_prompt(messages[:1]), *other.encode_completion(messages[1:])]
    assert found.item() == pytest.approx(judge(torch.tensor([ids])).item(), abs=1e-5)
    assert scorer.load(tmp_path / "foreign", policy_path=tmp_path / "foreign").tokenizer is None


def test_it_writes_the_metrics_that_the_page_documents(tmp_path, world):
    metrics = events(run(tmp_path, world(epochs=1, lm_coef=0.1)), "metrics")
    assert set(metrics[-1]["values"]) == documented("reward_model")
