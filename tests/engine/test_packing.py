"""Sequences without padding against the same sequences alone: states, gradients, branches."""

import dataclasses

import pytest
import torch

from training.engine import linear, packing, transformer
from training.engine.transformer import Transformer

SHAPES = {
    "llama": {},
    "gpt2": {
        "norm": "layer",
        "positions": "learned",
        "mlp": "gelu_tanh",
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
    },
    "neox": {"norm": "layer", "mlp": "gelu", "rope_share": 0.5, "parallel_residual": True},
    "qwen3": {"qk_norm": True},
    "mistral": {"sliding_window": 4},
    "half windowed": {"sliding_window": 4, "full_attention_layers": 1},
}


@pytest.fixture(params=SHAPES)
def policy(request, make_policy):
    architecture = dataclasses.replace(make_policy().config, **SHAPES[request.param])
    made, generator = Transformer(architecture), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.12, generator=generator)
    return made.eval()


def ids(length, seed):
    return torch.randint(2, 60, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def assert_same(policy, ours, plain, weights):
    """States (n, D) agree, and so do the gradients of a weighted sum of them."""
    torch.testing.assert_close(ours, plain, atol=2e-5, rtol=1e-4)
    found, expected = (gradients(policy, (hidden * weights).sum()) for hidden in (ours, plain))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3, msg=name)


def test_it_gives_uneven_sequences_the_states_they_have_alone(policy):
    rows = [ids(length, length) for length in (9, 1, 14, 8, 3, 13)]
    layout = packing.Layout(list(map(len, rows)))
    assert len(layout.groups) > 1, "lengths differ enough to tell groups apart"
    ours = policy.hidden_packed(packing.flatten(rows), layout)
    plain = torch.cat([policy.hidden(torch.tensor([row]))[0] for row in rows])
    assert_same(policy, ours, plain, torch.randn(plain.shape, generator=torch.Generator().manual_seed(0)))


def test_it_computes_a_prompt_once_for_branches_that_never_see_each_other(policy):
    prompts = [ids(5, 1), ids(7, 2), ids(5, 3), ids(2, 4)]
    branches = [[ids(n, 10 * row + n) for n in ns] for row, ns in enumerate([(4, 6, 2), (9, 8, 7), (1, 12), ()])]
    layout = packing.Layout(list(map(len, prompts)), [list(map(len, tails)) for tails in branches])
    flat = packing.flatten([part for prompt, tails in zip(prompts, branches, strict=True) for part in (prompt, *tails)])
    assert layout.tokens == len(flat) == 19 + 49
    ours = policy.hidden_packed(flat, layout)
    plain, kept = [], []
    for row, (prompt, tails) in enumerate(zip(prompts, branches, strict=True)):
        for tail, start in zip(tails, layout.branch_starts[row], strict=True):
            plain.append(policy.hidden(torch.tensor([prompt + tail]))[0, len(prompt) - 1 :])
            kept += [layout.starts[row] + len(prompt) - 1, *range(start, start + len(tail))]
    plain.append(policy.hidden(torch.tensor([prompts[3]]))[0])
    kept += range(layout.starts[3], layout.tokens)
    weights = torch.randn(len(kept), 32, generator=torch.Generator().manual_seed(0))
    assert_same(policy, ours.index_select(0, torch.tensor(kept)), torch.cat(plain), weights)
    ends = [len(prompts[0]) + 3, len(prompts[0]) + 9, len(prompts[0]) + 11]
    assert layout.ends()[:3].tolist() == ends
    assert len(layout.ends()) == 9


def test_it_computes_only_the_wanted_places_in_the_last_layer(policy):
    rows = [ids(length, length) for length in (9, 4)]
    layout, flat = packing.Layout([9, 4]), packing.flatten(rows)
    places = torch.tensor([12, 3, 8])
    plain = policy.hidden_packed(flat, layout).index_select(0, places)
    ours = policy.hidden_packed(flat, layout, places)
    assert_same(policy, ours, plain, torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
    seen = []
    policy.blocks[-1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[0]))
    policy.hidden_packed(flat, layout, places)
    assert seen == [3]


def test_it_names_the_places_where_tokens_are_decided():
    layout = packing.Layout([4, 3])  # prompts of 2 and 1 tokens, completions of 2 each
    assert packing.decisions(layout, [2, 1], [2, 2]).tolist() == [1, 2, 4, 5]
    assert layout.ends().tolist() == [3, 6]


def test_it_keeps_to_the_arithmetic_of_float32_in_bfloat16(make_policy):
    """Plain products stand in for the fused kernel where gradients are wanted in bfloat16."""
    policy = make_policy()
    rows = [ids(length, length) for length in (9, 14)]
    layout, flat = packing.Layout([9, 14]), packing.flatten(rows)
    exact = policy.hidden_packed(flat, layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = policy.hidden_packed(flat, layout)
        with torch.no_grad():
            fused = policy.hidden_packed(flat, layout)
    torch.testing.assert_close(rounded.float(), exact, atol=0.15, rtol=0.05)
    torch.testing.assert_close(rounded.float(), fused.float(), atol=0.08, rtol=0.05)


def test_it_fills_rows_once_for_all_matrices_in_bfloat16(policy, monkeypatch):
    """What stands in the rows added changes neither states nor gradients."""
    rows = [ids(length, length) for length in (9, 1, 14, 8, 3, 13)]
    layout, places = packing.Layout(list(map(len, rows))), torch.tensor([3, 9, 20, 30, 47])
    weights = torch.randn(len(places), policy.config.hidden_size, generator=torch.Generator().manual_seed(0))
    filled = []
    fill = linear._filled
    monkeypatch.setattr(linear, "_filled", lambda x, rows: filled.append(rows) or fill(x, rows))

    def learn():
        with torch.autocast("cpu", torch.bfloat16):
            hidden = policy.hidden_packed(packing.flatten(rows), layout, places)
        return hidden, gradients(policy, (hidden * weights).sum())

    hidden, found = learn()
    assert filled == [], "no matrix has to"
    monkeypatch.setattr(transformer, "fill_places", lambda places, weight: places)
    plain, expected = learn()
    assert 48 in filled and 5 in filled
    torch.testing.assert_close(hidden, plain)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)
