"""LoRA: adapters that PEFT reads and writes, stages that train nothing else, a reference that is the same network."""

import json

import peft
import pytest
import torch
import transformers

from tests.engine.test_reward_model import ranking
from tests.engine.test_transformer import relative_error
from training.engine import checkpoint, config, lora, ppo, reward_model, rundir, sections, sft
from training.engine.checkpoint import CheckpointError
from training.engine.heads import RewardModel, ScalarHead
from training.engine.progress import Interrupted, newest_checkpoint

IDS = torch.tensor([[5, 9, 11, 4, 30, 31, 7, 8, 12, 3]])
RANK_4 = sections.LoraConfig(rank=4, alpha=6.0)
WIDTHS = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": False}  # fmt: skip
PEERS = {
    "llama": lambda: transformers.LlamaConfig(**WIDTHS, num_key_value_heads=2),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**WIDTHS),
}


def peer_model(family, folder):
    """A model of the transformers library, as it comes back from a folder, whose name PEFT looks up."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(PEERS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.1) + (parameter == 1))
    model.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def stir(module):
    """Gives every trained part other numbers."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module


@pytest.mark.parametrize("targets", ["all", "attention"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_peft_loads_an_adapter_of_ours(family, targets, tmp_path):
    base = peer_model(family, tmp_path / "base")
    policy = checkpoint.load_policy(tmp_path / "base")
    with torch.no_grad():
        before = policy(IDS)
        settings = sections.LoraConfig(rank=4, alpha=6.0, targets=targets)
        lora.attach(policy, settings, base=tmp_path / "base", seed=0)
        assert torch.equal(policy(IDS), before), "a fresh adapter changes nothing"
        stir(policy)
        (tmp_path / "adapter").mkdir()
        lora.write_adapter(policy, tmp_path / "adapter")
        theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        expected = theirs(IDS).logits
        assert relative_error(policy(IDS), expected) < 1e-5
        assert relative_error(expected, before) > 0.1
        assert relative_error(lora.merged(policy)(IDS), expected) < 1e-5
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tmp_path / "base")


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_it_loads_an_adapter_of_pefts(family, tmp_path):
    base = peer_model(family, tmp_path / "base")
    policy = checkpoint.load_policy(tmp_path / "base")
    modules = {
        "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "gpt_neox": ["query_key_value", "dense"],
    }[family]
    theirs = peft.get_peft_model(base, peft.LoraConfig(r=3, lora_alpha=5, target_modules=modules))
    stir(theirs).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        assert relative_error(lora.load_adapter(policy, tmp_path / "adapter")(IDS), theirs(IDS).logits) < 1e-5
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**values, "use_dora": True}))
    with pytest.raises(CheckpointError, match="no plain LoRA adapter"):
        lora.load_adapter(checkpoint.load_policy(tmp_path / "base"), tmp_path / "adapter")


def test_peft_scores_with_a_reward_models_adapter(make_policy, story_tokenizer, tmp_path):
    judge = RewardModel(make_policy(), ScalarHead(32))
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "base")
    stir(lora.attach(judge, RANK_4, base=tmp_path / "base", seed=0))
    judge.fold(1.0, 0.25)
    (tmp_path / "adapter").mkdir()
    lora.write_adapter(judge, tmp_path / "adapter")
    base = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    again = lora.load_adapter(checkpoint.load_reward_model(tmp_path / "base"), tmp_path / "adapter")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(judge(ids), theirs(ids).logits[:, 0] + 0.25, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(again(ids), judge(ids))


def test_it_refuses_an_adapter_of_another_shape(make_policy, tmp_path):
    (tmp_path / "adapter").mkdir()
    lora.write_adapter(lora.attach(make_policy(), RANK_4, base=tmp_path, seed=0), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="another shape"):
        lora.load_adapter(make_policy(hidden_size=64), tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="changes other matrices"):
        lora.load_adapter(make_policy(n_layers=1), tmp_path / "adapter")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"modules_to_save": ["lm_head"]}, r"trains whole modules \(lm_head\) beside its adapter"),
        ({"bias": "all"}, "trains biases beside its adapter"),
    ],
)
def test_it_refuses_what_an_adapter_of_pefts_trains_beside(tmp_path, more, sentence):
    theirs = peft.get_peft_model(
        peer_model("gpt_neox", tmp_path / "base"),
        peft.LoraConfig(r=3, lora_alpha=5, target_modules=["query_key_value", "dense"], **more),
    )
    theirs.save_pretrained(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=sentence):
        lora.load_adapter(checkpoint.load_policy(tmp_path / "base"), tmp_path / "adapter")


def test_it_refuses_an_adapter_of_another_kind_of_network(make_policy, tmp_path):
    for name, module in (("policy", make_policy()), ("judge", RewardModel(make_policy(), ScalarHead(32)))):
        (tmp_path / name).mkdir()
        lora.write_adapter(lora.attach(module, RANK_4, base=tmp_path, seed=0), tmp_path / name)
    with pytest.raises(CheckpointError, match="lacks the tensor base_model"):
        lora.load_adapter(RewardModel(make_policy(), ScalarHead(32)), tmp_path / "policy")
    for values in ({}, {"modules_to_save": None}):  # what its settings say, and what its file holds
        path = tmp_path / "judge" / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        with pytest.raises(CheckpointError, match="score"):
            lora.load_adapter(make_policy(), tmp_path / "judge")


@pytest.fixture
def world(tmp_path, make_policy, story_tokenizer):
    """world(section, **its settings) -> a Config with an adapter of rank 4."""
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, tmp_path / "policy")
    judge = RewardModel(make_policy(**shape, seed=3), ScalarHead(32, generator=torch.Generator().manual_seed(0)))
    checkpoint.save_reward_model(judge, story_tokenizer, tmp_path / "reward_model")
    user = [{"role": "user", "content": f"a {name}"} for name in ("fox", "owl", "bear", "mouse")]
    rows = {
        "prompts": [{"messages": [turn], "pool": "ppo"} for turn in user],
        "demonstrations": [{"messages": [turn, {"role": "assistant", "content": "It flew."}]} for turn in user * 3],
        "rankings": [ranking(number) for number in range(9)],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = {name: str(tmp_path / f"{name}.jsonl") for name in rows}
    inputs |= {name: str(tmp_path / name) for name in ("policy", "reward_model")}

    def make(section, *, merge=True, **settings):
        return config.build(
            {"run": {"device": "cpu"}, "inputs": inputs, "lora": {"rank": 4, "merge": merge}, section: settings}
        )

    return make


STAGES = {
    "sft": (sft, {"epochs": 3, "batch_size": 4}),
    "reward_model": (reward_model, {"epochs": 2, "batch_size": 4, "members": 2, "validation_share": 0.0}),
    "ppo": (ppo, {"iterations": 4, "batch_size": 4, "minibatch_size": 4, "max_new_tokens": 6, "sample_prompts": 0}),
}


def run(stage, settings, path, **arguments):
    run_dir = rundir.create(path, config.resolved(settings))
    STAGES[stage][0].train(settings, run_dir, **arguments)
    return run_dir


@pytest.mark.parametrize("stage", STAGES)
def test_it_trains_an_adapter_and_resumes_bit_for_bit(stage, world, tmp_path):
    settings = world(stage, **STAGES[stage][1])
    whole = run(stage, settings, tmp_path / "whole")
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(stage, settings, tmp_path / "parts", should_stop=lambda: next(asked) == 3)
    point = newest_checkpoint(tmp_path / "parts")
    tensors, _ = checkpoint.load_state(point)
    assert not any(name.endswith("embedding.weight") for name in tensors), "frozen weights are no state"
    torch.manual_seed(99)
    parts = run(stage, settings, tmp_path / "parts", resume=point)
    assert checkpoint.digest(parts / "output") == checkpoint.digest(whole / "output")
    assert checkpoint.digest(parts / "adapter") == checkpoint.digest(whole / "adapter")


def test_its_merged_output_is_the_base_with_the_adapter(world, tmp_path):
    run_dir = run("sft", world("sft", epochs=2, batch_size=4, optim={"learning_rate": 1e-2}), tmp_path / "run")
    base, output = checkpoint.load_policy(tmp_path / "policy"), checkpoint.load_policy(run_dir / "output")
    with torch.no_grad():
        before = base(IDS)
        both = lora.load_adapter(base, run_dir / "adapter")(IDS)
        assert relative_error(output(IDS), both) < 1e-5 < 1e-2 < relative_error(both, before)


def test_it_leaves_the_adapter_alone_as_output_where_merging_is_off(world, tmp_path):
    run_dir = run("sft", world("sft", merge=False, batch_size=4), tmp_path / "run")
    assert sorted(path.name for path in (run_dir / "output").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "manifest.json",
    ]  # fmt: skip
    assert not (run_dir / "adapter").exists()
    assert rundir.read_events(run_dir)[0][-1]["digest"] == checkpoint.digest(run_dir / "output")


def test_its_reference_and_value_network_share_the_frozen_weights(world, tmp_path, make_policy, story_tokenizer):
    settings = world("ppo", max_new_tokens=6)
    players = ppo.make_players(settings)
    assert players.ref_policy.embedding.weight is players.policy.embedding.weight
    frozen = players.policy.blocks[0].attention.qkv.layer.weight
    assert players.ref_policy.blocks[0].attention.qkv.weight is frozen and not frozen.requires_grad
    judge = players.scorer.members[0]
    assert players.value_network.trunk.embedding.weight is judge.trunk.embedding.weight
    assert players.value_network.head.weight is not judge.head.weight
    with torch.no_grad():
        before, score = players.ref_policy(IDS), judge(IDS)
        assert torch.equal(before, players.policy(IDS))
        stir(players.policy), stir(players.value_network)
        assert not torch.allclose(before, players.policy(IDS))
        assert torch.equal(before, players.ref_policy(IDS)) and torch.equal(score, judge(IDS))
    # Another reference, as from the second round on, is a network of its own.
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 64}
    checkpoint.save_policy(make_policy(**shape, seed=7), story_tokenizer, tmp_path / "other")
    values = config.resolved(settings)
    values["inputs"]["ref_policy"] = str(tmp_path / "other")
    other = ppo.make_players(config.build(values))
    assert other.ref_policy.embedding.weight is not other.policy.embedding.weight
