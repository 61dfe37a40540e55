"""The stages tokenizer, pretrain, sft and generate, run in the process: they learn, resume bit for bit, and count."""

import dataclasses
import json
import re

import pytest
import torch

from tests.engine.conftest import STORIES
from training.engine import checkpoint, config, data, generate, optim, pretrain, rundir, sections, sft, vocabulary
from training.engine.distributed import Compute
from training.engine.progress import GuardStopped, Interrupted, Progress, newest_checkpoint

MODEL = {
    "hidden_size": 32, "intermediate_size": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "max_positions": 96
}  # fmt: skip


@pytest.fixture
def inputs(tmp_path, story_tokenizer, make_policy):
    (tmp_path / "documents.txt").write_text("\n\n".join(STORIES))
    with open(tmp_path / "demonstrations.jsonl", "w") as file:
        for story in STORIES:
            prompt = {"role": "user", "content": " ".join(story.split()[4:6])}
            row = {"messages": [prompt, {"role": "assistant", "content": story}]}
            file.write(json.dumps(row) + "\n")
    with open(tmp_path / "prompts.jsonl", "w") as file:
        for number, text in enumerate(["shy fox", "brave owl", "x" * 400]):
            row = {"digest": f"d{number}", "messages": [{"role": "user", "content": text}], "pool": "eval"}
            file.write(json.dumps(row) + "\n")
    policy = make_policy(vocab_size=story_tokenizer.vocab_size, max_positions=96)
    checkpoint.save_policy(policy, story_tokenizer, tmp_path / "policy")
    return {
        "documents": str(tmp_path / "documents.txt"),
        "demonstrations": str(tmp_path / "demonstrations.jsonl"),
        "prompts": str(tmp_path / "prompts.jsonl"),
        "policy": str(tmp_path / "policy"),
        "tokenizer": str(tmp_path / "policy"),
    }


def settings(inputs, only, **sections):
    run = {"threads": 1, "checkpoint_every_seconds": 1e6, "device": "cpu", **sections.pop("run", {})}
    return config.build({"run": run, "inputs": {name: inputs[name] for name in only}, "model": MODEL, **sections})


def pretrain_settings(inputs, **run):
    rates = {"learning_rate": 3e-3, "warmup_steps": 2}
    return settings(
        inputs,
        ("documents", "tokenizer"),
        pretrain={"steps": 8, "batch_tokens": 384, "sequence_length": 96, "optim": rates},
        run=run,
    )


def sft_settings(inputs, **run):
    optimizer = {"learning_rate": 3e-3}
    return settings(
        inputs, ("policy", "demonstrations"), sft={"epochs": 2, "batch_size": 12, "optim": optimizer}, run=run
    )


def run(stage, values, path, **arguments):
    stage.train(values, rundir.create(path, config.resolved(values)), **arguments)
    return rundir.read_events(path)[0]


def metrics_of(events, name):
    return [event["values"][name] for event in events if event["type"] == "metrics" and name in event["values"]]


def stop_after(steps):
    """should_stop that says yes when it has been asked `steps` times."""
    asked = iter(range(1, 10_000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("stage, make", [(pretrain, pretrain_settings), (sft, sft_settings)])
def test_it_resumes_bit_for_bit(stage, make, inputs, tmp_path):
    whole = run(stage, make(inputs), tmp_path / "whole")
    path = tmp_path / "broken"
    with pytest.raises(Interrupted, match="after step 3"):
        run(stage, make(inputs, checkpoint_every_steps=2), path, should_stop=stop_after(3))
    assert [record.step for record in rundir.checkpoint_records(path)] == [2, 3]
    torch.manual_seed(99)  # whatever another process did with its generator
    resumed = run(stage, make(inputs), path, resume=newest_checkpoint(path))
    assert whole[-1]["type"] == resumed[-1]["type"] == "finished"
    assert whole[-1]["digest"] == resumed[-1]["digest"] == checkpoint.verify(path / "output")
    assert metrics_of(whole, "loss") == metrics_of(resumed, "loss")


def test_it_learns_the_stories_by_heart(inputs, tmp_path):
    values = settings(
        inputs,
        ("documents", "tokenizer"),
        pretrain={
            "steps": 60,
            "batch_tokens": 768,
            "sequence_length": 96,
            "optim": {"learning_rate": 1e-2, "schedule": "cosine"},
        },
    )
    losses = metrics_of(run(pretrain, values, tmp_path / "run"), "loss")
    assert losses[0] > 5  # about log 400 = 6 at the start
    assert losses[-1] < 0.6
    validation = metrics_of(rundir.read_events(tmp_path / "run")[0], "validation_loss")
    assert len(validation) == 10 and validation[-1] < 0.8


def test_it_overfits_one_batch_of_demonstrations(inputs, tmp_path):
    values = settings(
        inputs,
        ("policy", "demonstrations"),
        sft={"epochs": 40, "batch_size": 64, "validation_share": 0.0, "optim": {"learning_rate": 1e-2}},
    )
    losses = metrics_of(run(sft, values, tmp_path / "run"), "loss")
    assert losses[-1] < 0.25 < 3 < losses[0]


def test_it_counts_only_completion_tokens_and_weighs_them(make_policy):
    policy = make_policy()
    examples = [
        sft.Example(ids=[5, 6, 7, 8, 9], prompt_length=3, weight=1.0, group=""),
        sft.Example(ids=[10, 11, 12], prompt_length=1, weight=2.0, group=""),
    ]
    expected = 0.0
    with torch.no_grad():
        for example in examples:
            logprobs = policy(torch.tensor([example.ids]))[0].log_softmax(-1)
            for place in range(example.prompt_length, len(example.ids)):
                expected -= example.weight * logprobs[place - 1, example.ids[place]]
        assert torch.allclose(sft.summed_loss(policy, examples), expected, rtol=1e-5)


def test_it_gives_one_gradient_however_a_step_is_split(make_policy, monkeypatch):
    policy, compute = make_policy(), Compute(sections.RunConfig(device="cpu"))
    examples = [sft.Example(ids=list(range(4, 6 + n)), prompt_length=1, weight=1.0, group="") for n in (1, 9, 4, 2)]
    gradients = []
    for tokens in (10_000, 1):
        monkeypatch.setattr(data, "CPU_PASS_TOKENS", tokens)
        policy.zero_grad()
        for part in sft.passes(examples, compute):
            (sft.summed_loss(policy, part) / 16).backward()
        gradients.append([parameter.grad.clone() for parameter in policy.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_it_adds_up_the_gradients_of_small_passes(inputs, tmp_path):
    digests, losses = [], []
    for tokens in (0, 96):
        values = pretrain_settings(inputs)
        section = dataclasses.replace(values.pretrain, micro_batch_tokens=tokens, steps=3)
        events = run(pretrain, dataclasses.replace(values, pretrain=section), tmp_path / f"run{tokens}")
        digests.append(checkpoint.load_policy(tmp_path / f"run{tokens}" / "output").state_dict())
        losses.append(metrics_of(events, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, tensor in digests[0].items():
        torch.testing.assert_close(digests[1][name], tensor, atol=2e-3, rtol=0)
    batch = pretrain.Packer([[1, 2, 3]] * 8, rows=5, length=4, seed=0).next()
    assert [len(part[0]) for part in pretrain.passes(batch, 8)] == [2, 2, 1]


def test_it_mixes_data_sets_by_weight():
    order = [data.mixed_order([4, 10], [2, 0.5], seed=1, epoch=epoch) for epoch in range(4)]
    for epoch in order:
        assert len(epoch) == 13
        assert sorted(i for i in epoch if i < 4) == [0, 0, 1, 1, 2, 2, 3, 3]
        assert len({i for i in epoch if i >= 4}) == 5
    # Two epochs take each half once.
    assert sorted(i for epoch in order[:2] for i in epoch if i >= 4) == list(range(4, 14))
    assert order[0] != order[1]
    assert data.mixed_order([4, 10], [1, 1], seed=1, epoch=2) == data.shuffled(14, seed=1, epoch=2)


def test_it_trains_on_several_data_sets(inputs, tmp_path):
    talk = [{"role": role, "content": text} for role, text in
            [("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"), ("assistant", "No!")]]  # fmt: skip
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": talk}) + "\n")
    both = {**inputs, "demonstrations": f"{inputs['demonstrations']}, {tmp_path / 'chat.jsonl'}"}
    section = {"batch_size": 12, "validation_share": 0.0, "mixture": "0.25, 6", "turns": "all"}
    values = settings(both, ("policy", "demonstrations"), sft=section)
    # A quarter of 48 stories, and both turns of the chat six times: 24 examples, two steps.
    events = run(sft, values, tmp_path / "run")
    assert events[0]["total_steps"] == 2
    assert events[-1]["summary"]["demonstrations"] == 48 + 2
    for mixture in ("1", "1, 0", "1, much"):
        section["mixture"] = mixture
        with pytest.raises(config.ConfigError, match="for each of the 2 files"):
            run(sft, settings(both, ("policy", "demonstrations"), sft=section), tmp_path / "wrong")


def test_it_learns_the_last_turn_or_all_of_them(tmp_path):
    said = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"), ("assistant", "No!")]
    talk = [{"role": role, "content": text} for role, text in said]
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps({"messages": talk, "weight": 2.0}) + "\n")
    (last,) = data.load_demonstrations(path)
    assert (last.prompt, last.completion) == (talk[:4], talk[4:])
    first, second = data.load_demonstrations(path, turns="all")
    assert (first.prompt, first.completion) == (talk[:2], talk[2:3])
    assert second == last and first.group == last.group, "one group: never on both sides of a split"


def test_it_counts_demonstrations_that_are_too_long(inputs, tmp_path):
    with open(inputs["demonstrations"], "a") as file:
        long = {"role": "assistant", "content": "x" * 500}
        file.write(json.dumps({"messages": [{"role": "user", "content": "a"}, long]}) + "\n")
    events = run(sft, sft_settings(inputs), tmp_path / "run")
    assert events[-1]["summary"]["left_out"] == 1
    warning = next(event for event in events if event["type"] == "log")
    assert warning["level"] == "warning" and "1 of 49 demonstrations are left out" in warning["message"]


def test_it_packs_whole_documents_into_rows():
    documents = [[1, 2, 3], [4, 5, 6, 7], [8, 9]]
    rows = pretrain.Rows(2, 6)
    assert all(rows.place(ids) for ids in documents)
    ids, numbers, targets = rows.pack()
    # The third goes where it fills a row: beside the second, 4 + 2 = 6.
    assert ids.tolist() == [[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9]]
    assert numbers.tolist() == [[0, 0, 0, -1, -1, -1], [0, 0, 0, 0, 1, 1]]
    no = pretrain.IGNORED
    assert targets.tolist() == [[2, 3, no, no, no, no], [5, 6, 7, no, 9, no]]
    assert not rows.place([1, 2, 3, 4])


def test_it_serves_every_document_once_an_epoch():
    documents = [[n, n] for n in range(1, 11)]
    packer = pretrain.Packer(documents, rows=2, length=4, seed=0)  # 4 documents a batch
    seen = [packer.next()[0].flatten().tolist() for _ in range(5)]
    counts = [sum(batch.count(n) for batch in seen) // 2 for n in range(1, 11)]
    assert counts == [2] * 10


def test_it_cuts_documents_longer_than_a_row(story_tokenizer):
    (whole,) = pretrain.encode_documents(story_tokenizer, ["Once there was a shy fox. " * 4])
    assert whole[-1] == story_tokenizer.eos_id
    parts = pretrain.cut([whole[:21]], 10)
    assert parts == [whole[:10], whole[10:20]], "a token alone predicts nothing"


def test_it_validates_on_no_document_that_it_trains_on(inputs, tmp_path, monkeypatch):
    """Documents of many rows each, the words of which say which one they are from."""
    texts = [" ".join([name] * 60) for name in ("fox", "owl", "bear", "mouse", "kite", "lamp")]
    (tmp_path / "documents.txt").write_text("\n\n".join(texts))
    packer, sides = pretrain.Packer, {}

    def record(documents, **named):
        sides["training"] = {token for ids in documents for token in ids[2:-2]}
        return packer(documents, **named)

    def loss(policy, documents, *rest):
        sides["validation"] = {token for ids in documents for token in ids[2:-2]}
        return 1.0

    monkeypatch.setattr(pretrain, "Packer", record)
    monkeypatch.setattr(pretrain, "validation_loss", loss)
    small = {"steps": 1, "batch_tokens": 96, "sequence_length": 16, "validation_share": 0.4}
    run(pretrain, settings(inputs, ("documents", "tokenizer"), pretrain=small), tmp_path / "run")
    assert sides["validation"] and sides["training"] and not sides["validation"] & sides["training"]


def test_it_packs_conversations_beside_texts_in_their_order(story_tokenizer):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    documents = pretrain.encode_documents(story_tokenizer, ["One.", talk, "Two."])
    end = [story_tokenizer.eos_id]
    one, two = story_tokenizer.encode("One."), story_tokenizer.encode("Two.")
    assert documents == [one + end, story_tokenizer.apply_chat_template(talk) + end, two + end]


def test_it_trains_a_tokenizer(inputs, tmp_path):
    values = settings(inputs, ("documents",), tokenizer={"vocab_size": 300})
    events = run(vocabulary, values, tmp_path / "run")
    assert events[-1]["summary"]["vocab_size"] == 300
    assert checkpoint.load_tokenizer_of(tmp_path / "run" / "output").vocab_size == 300


def test_it_writes_completions_with_all_that_made_them(inputs, tmp_path, story_tokenizer):
    values = settings(
        inputs,
        ("policy", "prompts"),
        generate={"samples_per_prompt": 3, "pool": "eval", "sampling": {"max_new_tokens": 6, "batch_size": 3}},
    )
    events = run(generate, values, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/output/completions.jsonl").read_text().splitlines()]
    assert [(line["prompt_digest"], line["index"]) for line in lines] == [
        (f"d{number}", index) for number in range(2) for index in range(3)
    ]
    assert events[-1]["summary"]["left_out"] == 1
    for line in lines:
        assert line["generator"]["digest"] == checkpoint.digest(inputs["policy"])
        assert line["generator"]["template_digest"] == story_tokenizer.template_digest
        assert line["text"] == line["message"]["content"]
        assert len(line["token_ids"]) == line["completion_tokens"] <= 6
        stopped = line["token_ids"][-1] in story_tokenizer.stop_ids
        assert line["finish_reason"] == ("stop" if stopped else "length")
        assert "<|im_end|>" not in line["text"]
    run(generate, values, tmp_path / "again")
    one, other = (tmp_path / name / "output" / "completions.jsonl" for name in ("run", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_it_ends_completions_at_stop_strings(inputs, tmp_path):
    def texts(name, **more):
        draws = {"samples_per_prompt": 8, "sampling": {"max_new_tokens": 30, "batch_size": 8}, **more}
        run(generate, settings(inputs, ("policy", "prompts"), generate=draws), tmp_path / name)
        lines = (tmp_path / name / "output" / "completions.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    free = texts("free")
    mark = re.search("[a-zA-Z ]{3}", free[0]["text"])[0]
    cut = texts("cut", stop_strings=[mark])
    assert [line["text"] for line in cut] == [line["text"].partition(mark)[0] for line in free]
    assert cut[0]["finish_reason"] == "stop"
    assert cut[0]["message"]["content"] == cut[0]["text"]
    assert cut[0]["generator"]["sampling"]["stop_strings"] == [mark]
    assert "stop_strings" not in free[0]["generator"]["sampling"]
    for wrong in ("text", [1], [""]):
        with pytest.raises(config.ConfigError, match="must be a list of texts"):
            config.build({"generate": {"stop_strings": wrong}})


def test_it_starts_generating_anew_after_an_interruption(inputs, tmp_path):
    values = settings(inputs, ("policy", "prompts"), generate={"sampling": {"max_new_tokens": 4, "batch_size": 4}})
    with pytest.raises(Interrupted):
        run(generate, values, tmp_path / "run", should_stop=lambda: True)
    assert not (tmp_path / "run" / "output").exists()
    assert newest_checkpoint(tmp_path / "run") is None
    assert run(generate, values, tmp_path / "run")[-1]["type"] == "finished"


def test_it_keeps_the_newest_checkpoints_and_passes_over_a_damaged_one(inputs, tmp_path):
    path = tmp_path / "run"
    run(pretrain, pretrain_settings(inputs, checkpoint_every_steps=1, keep_checkpoints=3), path)
    folders = sorted(folder.name for folder in (path / "checkpoints").iterdir())
    assert folders == ["step-00000005", "step-00000006", "step-00000007"]
    assert newest_checkpoint(path).name == folders[2]
    with open(path / "checkpoints" / folders[2] / "state.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x00\x01")
    assert newest_checkpoint(path).name == folders[1]


def test_it_refuses_to_resume_another_stage_or_shape(inputs, tmp_path):
    path = tmp_path / "run"
    run(pretrain, pretrain_settings(inputs, checkpoint_every_steps=3), path)
    with pytest.raises(checkpoint.CheckpointError, match="stage 'pretrain' and cannot resume 'sft'"):
        run(sft, sft_settings(inputs), tmp_path / "sft", resume=newest_checkpoint(path))
    other = config.build({**config.resolved(pretrain_settings(inputs)), "model": {**MODEL, "hidden_size": 48}})
    with pytest.raises(checkpoint.CheckpointError, match=r"does not fit this run \(policy"):
        run(pretrain, other, tmp_path / "other", resume=newest_checkpoint(path))


def test_it_stops_before_a_step_with_a_gradient_that_is_not_finite(make_policy):
    policy = make_policy()
    settings = sections.OptimConfig()
    optimizer = optim.build_optimizer(policy, settings)
    before = [parameter.clone() for parameter in policy.parameters()]
    (policy(torch.tensor([[5, 6]])).sum() * float("nan")).backward()
    with pytest.raises(GuardStopped, match="not finite at step 7"):
        optim.take_step(optimizer, settings, rate=1e-3, what="step 7")
    assert all(torch.equal(one, other) for one, other in zip(before, policy.parameters(), strict=True))


def test_it_takes_the_steps_of_torchs_own_optimizer():
    settings = sections.OptimConfig(weight_decay=0.1, beta1=0.8, learning_rate=1e-2)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)]
    layers[1].load_state_dict(layers[0].state_dict())
    ours = optim.build_optimizer(layers[0], settings)
    groups = [{"params": [layers[1].weight]}, {"params": [layers[1].bias], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.8, 0.95), eps=1e-5, weight_decay=0.1, foreach=False)
    for step in range(6):
        x = torch.randn(8, 20)
        for layer, optimizer in zip(layers, (ours, theirs), strict=True):
            layer(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        if step == 2:
            resumed = optim.build_optimizer(layers[0], settings)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
    assert torch.allclose(layers[0].weight, layers[1].weight, atol=1e-6)
    assert torch.allclose(layers[0].bias, layers[1].bias, atol=1e-6)


def test_it_decays_matrices_only_and_takes_the_papers_epsilon(make_policy):
    settings = sections.OptimConfig(weight_decay=0.1)
    matrices, vectors = optim.build_optimizer(make_policy(), settings).param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() == 2 for parameter in matrices["params"])
    assert all(parameter.dim() == 1 for parameter in vectors["params"])
    assert matrices["eps"] == 1e-5


def test_it_follows_the_schedules_by_hand():
    def trace(total=4, **values):
        settings = sections.OptimConfig(learning_rate=1.0, **values)
        return [round(optim.learning_rate(settings, step, total), 6) for step in range(total)]

    assert trace(schedule="linear") == [1.0, 0.75, 0.5, 0.25]
    assert trace(schedule="constant", warmup_steps=2) == [0.5, 1.0, 1.0, 1.0]
    assert trace(schedule="linear", final_ratio=0.2) == [1.0, 0.8, 0.6, 0.4]
    assert trace(schedule="cosine") == [1.0, 0.853553, 0.5, 0.146447]


def test_it_writes_metrics_as_often_as_asked(tmp_path):
    values = config.build({"run": {"log_every_steps": 3}})
    progress = Progress(values, tmp_path, stage="sft", total_steps=7)
    for step in progress.steps():
        progress.metrics(step + 1, loss=float("nan"))
    events = rundir.read_events(tmp_path)[0]
    assert [event["step"] for event in events] == [3, 6, 7]
    assert events[0]["values"] == {"loss": None}


def test_it_ships_presets_that_hold_together():
    assert {"tiny", "small", "124m", "gpu"} <= set(config.presets())
    for name in config.presets():
        values = config.load(name)
        assert values.pretrain.sequence_length <= values.model.max_positions
        assert data.shuffled(2, seed=values.run.seed, epoch=0)


def test_it_refuses_devices_that_it_cannot_serve(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(config.ConfigError, match="finds no CUDA device"):
        Compute(sections.RunConfig(device="cuda"))


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "highest"), ("auto", "high"), ("bfloat16", "high")])
def test_it_computes_in_float32_on_a_gpu_where_that_is_asked_for(monkeypatch, dtype, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    try:
        Compute(sections.RunConfig(device="cuda", dtype=dtype))
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kl_target": 3.0, "kl_coef": 0.0}, "0 stays 0; set a first ppo.kl_coef"),
        ({"value_learning_rate": 1e-3, "value_network": "shared"}, "set ppo.value_learning_rate=0"),
    ],
)
def test_it_refuses_settings_that_would_do_nothing(values, sentence):
    with pytest.raises(config.ConfigError, match=re.escape(sentence)):
        config.build({"ppo": values})


def test_it_clears_away_what_killed_saves_have_left(tmp_path):
    leftovers = [".output.0a1b2c3d.tmp", ".output.0a1b2c3d.old", "checkpoints/.step-00000003.99999999.tmp"]
    others = ["output", "checkpoints/step-00000002", ".mine.tmp", "notes.0a1b2c3d.tmp"]
    for name in (*leftovers, *others):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()
    Progress(sections.Config(), tmp_path, stage="sft", total_steps=1).start()
    assert [name for name in (*leftovers, *others) if (tmp_path / name).exists()] == others


def test_it_trains_and_samples_in_bfloat16(inputs, tmp_path):
    losses = metrics_of(run(sft, sft_settings(inputs, dtype="bfloat16"), tmp_path / "run"), "loss")
    assert losses[-1] < losses[0]
    values = settings(
        inputs,
        ("policy", "prompts"),
        generate={"sampling": {"max_new_tokens": 4}},
        run={"dtype": "bfloat16"},
    )
    assert run(generate, values, tmp_path / "gen")[-1]["summary"]["completions"] == 8
