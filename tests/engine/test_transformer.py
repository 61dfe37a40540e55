"""The decoder against the transformers library, and against itself by other ways."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from training.engine import checkpoint, data
from training.engine.key_value_cache import KeyValueCache
from training.engine.transformer import Transformer, padded_right, positions_in_documents

SHAPES = {
    "plain": {},
    "one key-value head": {"n_kv_heads": 1},
    "every head its own": {"n_kv_heads": 4, "tie_embeddings": False, "rope_theta": 500000.0, "norm_eps": 1e-6},
}


def relative_error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


def mixed_rows(vocab_size=400, lengths=(3, 11, 7, 1), seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, vocab_size, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_gives_the_logits_of_the_transformers_library(make_policy, story_tokenizer, tmp_path, shape):
    policy = make_policy(vocab_size=story_tokenizer.vocab_size, **SHAPES[shape])
    checkpoint.save_policy(policy, story_tokenizer, tmp_path / "policy")
    oracle = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert type(oracle).__name__ == "LlamaForCausalLM"
    ids = torch.tensor(mixed_rows(story_tokenizer.vocab_size, lengths=(20, 20)))
    with torch.no_grad():
        assert relative_error(policy(ids), oracle(ids).logits) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_gives_padded_rows_the_logits_of_bare_ones(make_policy, side):
    policy, rows = make_policy(), mixed_rows()
    ids, mask = data.pad_batch(rows, 0, side=side)
    with torch.no_grad():
        logits = policy(ids, mask)
        for number, row in enumerate(rows):
            alone = policy(torch.tensor([row]))[0]
            assert torch.isfinite(logits[number]).all()
            assert relative_error(logits[number][mask[number]], alone) < 1e-5


def test_it_tells_padding_on_the_right_from_other_padding():
    assert padded_right(torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]))
    assert not padded_right(torch.tensor([[0, 1, 1]]))
    assert not padded_right(torch.tensor([[1, 0, 1]]))


def test_it_gives_the_same_logits_token_by_token_with_a_cache(make_policy):
    policy, rows = make_policy(), mixed_rows(lengths=(9, 9))
    ids = torch.tensor(rows)
    with torch.no_grad():
        whole = policy(ids)
        cache = KeyValueCache(policy.config, 2, 9, device="cpu", dtype=torch.float32)
        found = [policy.project(policy.prefill(ids[:, :4], torch.tensor([4, 4]), cache))]
        found.append(policy(ids[:, 4:7], cache=cache))  # three at once
        found += [policy(ids[:, n : n + 1], cache=cache) for n in (7, 8)]
    assert relative_error(torch.cat(found, dim=1), whole) < 1e-5


@pytest.mark.parametrize("family", ["mistral", "gpt2"])
def test_it_counts_window_and_positions_alike_with_and_without_a_cache(family):
    shape = {
        "mistral": {"family": "mistral", "sliding_window": 3},
        "gpt2": {"family": "gpt2", "positions": "learned", "norm": "layer", "mlp": "gelu_tanh", "qkv_bias": True},
    }[family]
    policy = Transformer(architecture_of(**shape)).initialise(torch.Generator().manual_seed(0)).eval()
    ids = torch.tensor(mixed_rows(50, lengths=(10, 10)))
    with torch.no_grad():
        cache = KeyValueCache(policy.config, 2, 10, device="cpu", dtype=torch.float32)
        found = [policy.project(policy.prefill(ids[:, :5], torch.tensor([5, 5]), cache))]
        found += [policy(ids[:, n : n + 1], cache=cache) for n in range(5, 10)]
        assert relative_error(torch.cat(found, dim=1), policy(ids)) < 1e-5


def architecture_of(**values):
    from training.engine.architecture import Architecture

    shape = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2,
        "head_size": 8, "max_positions": 32,
    }  # fmt: skip
    return Architecture(**{**shape, **values})


def test_it_packs_documents_with_the_loss_and_gradients_of_padded_ones(make_policy):
    policy, rows = make_policy(), mixed_rows(lengths=(5, 8, 3))
    ids, mask = data.pad_batch(rows, 0)

    def loss_and_gradients(logits, targets):
        policy.zero_grad()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in policy.parameters()]

    padded_targets = ids.roll(-1, 1).masked_fill(~mask.roll(-1, 1), -100)
    padded_targets[:, -1] = -100
    loss, gradients = loss_and_gradients(policy(ids, mask), padded_targets)

    packed = torch.tensor([[*rows[0], *rows[1], *rows[2]]])
    documents = torch.tensor([[0] * 5 + [1] * 8 + [2] * 3])
    targets = packed.roll(-1, 1)
    targets[0, [4, 12, 15]] = -100  # nothing follows a document's last token
    packed_loss, packed_gradients = loss_and_gradients(policy(packed, document_ids=documents), targets)

    assert torch.allclose(loss, packed_loss, rtol=1e-5)
    for one, other in zip(gradients, packed_gradients, strict=True):
        assert relative_error(other, one) < 1e-4


def test_it_starts_positions_anew_in_each_document():
    assert positions_in_documents(torch.tensor([[7, 7, 7, 2, 2, 9]])).tolist() == [[0, 1, 2, 0, 1, 0]]


def test_it_never_looks_ahead(make_policy):
    policy = make_policy()
    ids = torch.tensor(mixed_rows(lengths=(10,)))
    changed = ids.clone()
    changed[0, 6:] = 5
    with torch.no_grad():
        assert torch.equal(policy(ids)[0, :6], policy(changed)[0, :6])
