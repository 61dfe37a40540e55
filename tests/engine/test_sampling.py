"""Sampling against naive generation, and its draws against the distribution they come from."""

import pytest
import torch
from scipy import stats

from training.engine import sampling, transformer
from training.engine.sampling import Decoder, draw, filter_logits, generate

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
