"""Sampling against naive generation, and its draws against the distribution they come from."""

import collections
import math
import re

import pytest
import torch
from scipy import stats

from training.engine import sampling, transformer
from training.engine.architecture import Architecture
from training.engine.sampling import Decoder, StopStrings, draw, filter_logits, generate
from training.engine.transformer import Transformer
from training.engine.weights import CheckpointError

PROMPTS = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [20, 21]]


def naive_greedy(policy, prompt, *, new, stops=()):
    ids = list(prompt)
    with torch.no_grad():
        for _ in range(new):
            ids.append(int(policy(torch.tensor([ids]))[0, -1].argmax()))
            if ids[-1] in stops:
                break
    return ids[len(prompt) :]


def test_it_is_greedy_as_the_naive_way_is(make_policy):
    policy = make_policy()
    expected = [naive_greedy(policy, prompt, new=12) for prompt in PROMPTS]
    samples = generate(policy, PROMPTS, max_new_tokens=12, temperature=0)
    assert [sample.ids for sample in samples] == expected
    assert {sample.finish_reason for sample in samples} == {"length"}
    assert all(value == 0.0 for sample in samples for value in sample.logprobs)


FAMILIES = {
    "llama": {},
    "windows": {"family": "mistral", "sliding_window": 3},
    "windows above a layer that sees all": {"family": "qwen2", "sliding_window": 3, "full_attention_layers": 1},
    "learned positions": {"family": "gpt2", "positions": "learned", "norm": "layer", "mlp": "gelu_tanh"},
    "parallel, partly rotated": {"family": "gpt_neox", "norm": "layer", "rope_share": 0.5, "parallel_residual": True},
    "normed queries": {"family": "qwen3", "qk_norm": True},
    "one key-value head": {"n_kv_heads": 1},
}


@pytest.mark.parametrize("batch_size", [1, 6, 7, 512])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_greedy_in_every_family_forked_compacted_and_refilled(family, batch_size):
    shape = {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4,
        "head_size": 8, "max_positions": 64,
    }  # fmt: skip
    policy = Transformer(Architecture(**{**shape, **FAMILIES[family]})).initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for number, parameter in enumerate(policy.parameters()):
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.4, generator=torch.Generator().manual_seed(number))
    prompts = [[5, 6, 7], [9], [11, 12, 13, 14, 15, 16, 17], [20, 21], [3] * 12]
    free = [naive_greedy(policy, prompt, new=9) for prompt in prompts]
    stops = {free[0][2], free[2][6]}  # rows end at different steps
    expected = [naive_greedy(policy, prompt, new=9, stops=stops) for prompt in prompts]
    assert len({len(ids) for ids in expected}) > 1
    samples = generate(
        policy, prompts, max_new_tokens=9, temperature=0, stop_token_ids=stops, samples_per_prompt=3,
        batch_size=batch_size,
    )  # fmt: skip
    assert [sample.ids for sample in samples] == [ids for ids in expected for _ in range(3)]


@pytest.mark.parametrize("temperature", [1e-5, 1e-40])
def test_it_is_greedy_when_it_is_next_to_cold(make_policy, temperature):
    policy = make_policy()
    cold = generate(policy, PROMPTS, max_new_tokens=8, temperature=temperature)
    assert [sample.ids for sample in cold] == [
        sample.ids for sample in generate(policy, PROMPTS, max_new_tokens=8, temperature=0)
    ]
    assert all(value == 0.0 for sample in cold for value in sample.logprobs)


@pytest.mark.parametrize("temperature", [0, 0.7, 1.0])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_it_refuses_weights_that_give_no_distribution(make_policy, temperature, number):
    policy = make_policy()
    with torch.no_grad():
        policy.embedding.weight[7] = number  # in one prompt only, and in the logits of all of them where tied
    with pytest.raises(CheckpointError, match="is not finite: its weights are damaged"):
        generate(policy, PROMPTS, max_new_tokens=5, temperature=temperature)


def test_it_ends_each_row_at_its_own_stop_token(make_policy):
    policy = make_policy()
    free = [naive_greedy(policy, prompt, new=12) for prompt in PROMPTS]
    stops = (free[0][2], free[2][7])  # rows end at different steps, so rows are dropped and moved
    expected = [naive_greedy(policy, prompt, new=12, stops=stops) for prompt in PROMPTS]
    assert len({len(ids) for ids in expected}) > 1
    samples = generate(policy, PROMPTS, max_new_tokens=12, temperature=0, stop_token_ids=stops)
    assert [sample.ids for sample in samples] == expected
    for sample in samples:
        assert (sample.finish_reason == "stop") == (sample.ids[-1] in stops)
        assert not set(sample.ids[:-1]) & set(stops)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_records_the_logprobs_of_what_it_sampled_from(make_policy, temperature):
    policy = make_policy()
    samples = generate(policy, PROMPTS, max_new_tokens=10, samples_per_prompt=3, temperature=temperature, seed=3)
    for number, sample in enumerate(samples):
        prompt = PROMPTS[number // 3]
        with torch.no_grad():
            logits = policy(torch.tensor([prompt + sample.ids]))[0, len(prompt) - 1 : -1]
        expected = (logits / temperature).log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(sample.logprobs), expected, atol=1e-5)


def test_it_draws_the_same_whatever_the_batches_and_whoever_finishes(make_policy):
    policy = make_policy()
    arguments = {"max_new_tokens": 10, "seed": 7, "samples_per_prompt": 2}
    whole = generate(policy, PROMPTS, **arguments)
    assert whole == generate(policy, PROMPTS, **arguments)
    assert whole != generate(policy, PROMPTS, **{**arguments, "seed": 8})
    stop = whole[1].ids[1]
    for free, stopped in zip(whole, generate(policy, PROMPTS, **arguments, stop_token_ids=(stop,)), strict=True):
        cut = free.ids.index(stop) + 1 if stop in free.ids else len(free.ids)
        assert stopped.ids == free.ids[:cut]


def test_it_takes_samples_of_one_prompt_apart(make_policy):
    samples = generate(make_policy(), PROMPTS[:1], max_new_tokens=8, samples_per_prompt=6, seed=1)
    assert len({tuple(sample.ids) for sample in samples}) > 1


def test_it_draws_in_proportion():
    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0, -torch.inf, 0.5]])
    n = 20_000
    uniforms = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = draw(logits.expand(n, -1), uniforms)
    counts = torch.bincount(tokens, minlength=6)
    chances = logits[0].softmax(-1)
    assert counts[4] == 0
    kept = chances > 0
    assert stats.chisquare(counts[kept].numpy(), (chances[kept] * n).double().numpy(), sum_check=False).pvalue > 0.001
    assert torch.allclose(logprobs, chances[tokens].log())


SETTINGS = {
    "whole": {},
    "cooler": {"temperature": 0.5},
    "three likeliest": {"top_k": 3},
    "likeliest half": {"top_p": 0.5},
    "all at once": {"temperature": 1.7, "top_k": 4, "top_p": 0.9},
}


def plain_chances(logits, temperature=1.0, top_k=0, top_p=1.0):
    """One distribution as a list, by sorting and adding up."""
    ranked = sorted(((math.exp(x / temperature), i) for i, x in enumerate(logits.tolist())), reverse=True)
    ranked = ranked[: top_k or None]
    total, kept, mass = sum(weight for weight, _ in ranked), [], 0.0
    for weight, i in ranked:
        if mass / total >= top_p:
            break
        kept.append((weight, i))
        mass += weight
    chances = [0.0] * len(logits)
    for weight, i in kept:
        chances[i] = weight / mass
    return chances


@pytest.mark.parametrize("name", SETTINGS)
def test_it_samples_whole_completions_in_proportion(make_policy, name):
    """Two tokens of a vocabulary of six: all 36 completions against the product of their chances."""
    settings, count = SETTINGS[name], 6000
    policy = make_policy(vocab_size=6)
    with torch.no_grad():
        policy.lm_head.weight.mul_(3)
    draws = {"max_new_tokens": 2, "samples_per_prompt": count, "batch_size": count, "seed": 4}
    samples = generate(policy, [[1, 2]], **draws, **settings)
    with torch.no_grad():
        first = plain_chances(policy(torch.tensor([[1, 2]]))[0, -1], **settings)
        chances = {}
        for a in range(6):
            second = plain_chances(policy(torch.tensor([[1, 2, a]]))[0, -1], **settings)
            chances |= {(a, b): first[a] * second[b] for b in range(6)}
    counts = collections.Counter(tuple(sample.ids) for sample in samples)
    assert all(chances[pair] > 0 for pair in counts)
    often = [pair for pair in chances if chances[pair] * count >= 5]
    rest = count - sum(counts[pair] for pair in often)
    expected = [chances[pair] * count for pair in often]
    observed = [counts[pair] for pair in often]
    if count - sum(expected) > 1:
        expected, observed = [*expected, count - sum(expected)], [*observed, rest]
    assert len(expected) > 2
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001
    for sample in samples[:50]:
        assert sum(sample.logprobs) == pytest.approx(math.log(chances[tuple(sample.ids)]), abs=1e-4)


def test_it_stops_at_a_string_however_it_is_cut_into_tokens(make_policy, story_tokenizer):
    policy = make_policy(story_tokenizer.vocab_size, max_positions=128)
    arguments = {"max_new_tokens": 40, "samples_per_prompt": 8, "seed": 1}
    free = generate(policy, PROMPTS, **arguments)
    texts = [story_tokenizer.decode(sample.ids, skip_special_tokens=False) for sample in free]
    marks = [re.search("[a-zA-Z ]{3}", text)[0] for text in (texts[0], texts[9])]
    stop = StopStrings(story_tokenizer, marks)
    stopped = generate(policy, PROMPTS, **arguments, stop=stop)
    ended = 0
    for before, after, text in zip(free, stopped, texts, strict=True):
        found = any(mark in text for mark in marks)
        ended += found
        assert after.finish_reason == ("stop" if found else "length")
        assert before.ids[: len(after.ids)] == after.ids
        assert before.logprobs[: len(after.ids)] == after.logprobs
        kept = story_tokenizer.decode(after.ids, skip_special_tokens=False)
        first = min((text.index(mark) for mark in marks if mark in text), default=len(text))
        assert stop.cut(kept) == text[:first]
        if found:  # not a token more than it takes
            shorter = story_tokenizer.decode(after.ids[:-1], skip_special_tokens=False)
            assert not any(mark in shorter for mark in marks)
    assert 2 <= ended < len(free)


def test_it_never_draws_what_has_no_chance():
    logits = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]])
    for uniform in (0.0, 0.5, 1 - 2.0**-53):
        token, _ = draw(logits, torch.tensor([uniform], dtype=torch.float64))
        assert token.item() in (1, 2)


def test_it_keeps_the_likeliest_only():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0]])
    finite = torch.isfinite
    assert finite(filter_logits(logits, top_k=2)).tolist() == [[False, True, True, False]]
    # softmax is (.087, .644, .237, .032): .644 does not reach .7, .881 does
    assert finite(filter_logits(logits, top_p=0.7)).tolist() == [[False, True, True, False]]
    assert finite(filter_logits(logits, top_p=0.6)).tolist() == [[False, True, False, False]]
    assert finite(filter_logits(logits, top_p=0.01)).tolist() == [[False, True, False, False]]
    assert torch.equal(filter_logits(logits, temperature=0.5), logits * 2)
    assert finite(filter_logits(logits, temperature=0)).tolist() == [[False, True, False, False]]
    assert torch.equal(filter_logits(logits), logits)


def test_it_ends_where_the_positions_end(make_policy):
    policy = make_policy(max_positions=8)
    samples = generate(policy, [[5] * 6, [5]], max_new_tokens=20)
    assert [len(sample.ids) for sample in samples] == [2, 7]
    assert {sample.finish_reason for sample in samples} == {"length"}
    with pytest.raises(ValueError, match="Prompt 1 has 8 tokens"):
        generate(policy, [[5], [5] * 8], max_new_tokens=1)
    with pytest.raises(ValueError, match="Prompt 0 has 0 tokens"):
        generate(policy, [[]], max_new_tokens=1)


def test_it_takes_rows_in_while_others_are_under_way(make_policy):
    policy = make_policy()
    decoder = Decoder(policy, rows=4, columns=32)
    decoder.add(PROMPTS[:2])
    ids = [list(PROMPTS[0]), list(PROMPTS[1])]

    def advance():
        tokens = decoder.logits.argmax(-1)
        for row, token in zip(ids, tokens.tolist(), strict=True):
            row.append(token)
        decoder.step(tokens)

    advance()
    decoder.add(PROMPTS[2:3])
    ids.append(list(PROMPTS[2]))
    advance()
    kept = decoder.drop(torch.tensor([True, False, False]))
    ids = [ids[row] for row in kept.tolist()]
    decoder.add(PROMPTS[3:], copies=2)
    ids += [list(PROMPTS[3]), list(PROMPTS[3])]
    advance()
    advance()
    for row in ids:
        start = next(prompt for prompt in PROMPTS if row[: len(prompt)] == prompt)
        assert row[len(start) :] == naive_greedy(policy, start, new=len(row) - len(start))
    with pytest.raises(ValueError, match="do not fit 0 free rows"):
        decoder.add([[1]])


def test_it_reads_prompts_in_several_passes(make_policy, monkeypatch):
    policy = make_policy()
    expected = generate(policy, PROMPTS, max_new_tokens=6, temperature=0)
    monkeypatch.setattr(sampling, "PREFILL_TOKENS", 8)
    assert [s.ids for s in generate(policy, PROMPTS, max_new_tokens=6, temperature=0)] == [s.ids for s in expected]


def test_it_rounds_matrices_once_as_autocast_does_in_every_pass(make_policy):
    policy = make_policy()
    twin = transformer.rounded(policy, torch.bfloat16)
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(twin(ids), policy(ids))
        samples = generate(policy, PROMPTS, max_new_tokens=8, temperature=0)
    assert twin.lm_head.weight.dtype is torch.bfloat16
    # All else is the policy's own, and the policy is as it was.
    assert twin.embedding.weight is policy.embedding.weight
    assert twin.norm.weight is policy.norm.weight
    assert policy.lm_head.weight.dtype is torch.float32
    assert policy.lm_head.weight.requires_grad
    assert [len(sample.ids) for sample in samples] == [8] * 4


def test_it_fills_the_places_of_rows_that_end(make_policy, monkeypatch):
    policy = make_policy()
    prompts = PROMPTS * 3
    free = [naive_greedy(policy, prompt, new=12) for prompt in PROMPTS]
    stops = (free[0][2], free[2][7])
    expected = [naive_greedy(policy, prompt, new=12, stops=stops) for prompt in PROMPTS] * 3
    rows = []
    step = Decoder.step

    def counted(self, tokens):
        rows.append(self.rows)
        return step(self, tokens)

    monkeypatch.setattr(Decoder, "step", counted)
    samples = generate(policy, prompts, max_new_tokens=12, temperature=0, stop_token_ids=stops, batch_size=4)
    assert [sample.ids for sample in samples] == expected
    # New prompts came in beside rows that were under way, and there never were more rows than asked.
    assert max(rows) == 4
    assert len(rows) < sum(max(map(len, expected[:4])) for _ in range(3))
    whole = generate(policy, prompts, max_new_tokens=12, seed=4, samples_per_prompt=2)
    few = generate(policy, prompts, max_new_tokens=12, seed=4, samples_per_prompt=2, batch_size=5)
    assert [sample.ids for sample in few] == [sample.ids for sample in whole]
