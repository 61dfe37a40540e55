"""Drawing completions: a decoder that one can step, and `generate` on top of it.

Each draw inverts the cumulative distribution at a uniform number that belongs to the sample and the position, taken
from the seed beforehand: the order in which rows finish and leave changes no draw. (It also costs one number a token,
where a Gumbel or exponential race costs a number for each entry of the vocabulary.)
"""

import dataclasses
import math

import torch

from training.engine.key_value_cache import KeyValueCache
from training.engine.transformer import rounded
from training.engine.weights import CheckpointError

PREFILL_TOKENS = 16384  # in one forward pass over prompts
COLD, COLDEST = 1e-3, 1e-30  # temperatures: below the first, logits may pass what a float holds; the second is greedy
REFILL_SHARE = 0.25  # of the rows must be free before new prompts come in: they are read together


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One completion. The stop token, if there is one, is the last id."""

    ids: list[int]
    logprobs: list[float]  # of the distribution that was sampled from, nats
    finish_reason: str  # stop | length


class StopStrings:
    """Ends a completion once its text holds one of some strings; `cut` gives the text before it."""

    def __init__(self, tokenizer, strings):
        self.tokenizer = tokenizer
        self.strings = tuple(strings)
        # A token is at least one byte, and a string that ended earlier has ended its completion earlier.
        self.tail = max(len(string.encode()) for string in self.strings)

    def __call__(self, ids):
        text = self.tokenizer.decode(ids[-self.tail :], skip_special_tokens=False)
        return any(string in text for string in self.strings)

    def cut(self, text):
        """The text before the first of the strings; all of it where there is none."""
        places = [text.find(string) for string in self.strings]
        return text[: min((place for place in places if place >= 0), default=len(text))]


class Decoder:
    """Rows of tokens that grow one token a step. `logits` (rows, V) are always those of the next token."""

    def __init__(self, policy, *, rows, columns):
        """rows, columns: how many sequences, and how many tokens of each, there will be room for."""
        weight = policy.embedding.weight
        dtype = weight.dtype
        if torch.is_autocast_enabled(weight.device.type):
            # Without gradients autocast would round every matrix anew for each token.
            dtype = torch.get_autocast_dtype(weight.device.type)
            policy = rounded(policy, dtype)
        self.policy = policy
        self.cache = KeyValueCache(policy.config, rows, columns, device=weight.device, dtype=dtype)
        self.logits = torch.empty(0, policy.config.vocab_size, device=weight.device)

    @property
    def rows(self):
        """Sequences in use."""
        return self.cache.rows

    @torch.inference_mode()
    def add(self, prompts, *, copies=1):
        """Appends `copies` rows for each prompt, side by side; a prompt is computed once.

        prompts: lists of ids, none empty. Raises ValueError if they do not fit.
        """
        if any(not prompt for prompt in prompts):
            raise ValueError("A prompt without tokens cannot be continued; give it at least one.")
        room = self.cache.keys[0].shape[0] - self.rows
        if len(prompts) * copies > room:
            raise ValueError(f"{len(prompts)} prompts times {copies} copies do not fit {room} free rows.")
        start, logits = 0, [self.logits]
        while start < len(prompts):
            longest = end = 0
            while start + end < len(prompts):
                longest_with = max(longest, len(prompts[start + end]))
                if end and longest_with * (end + 1) > PREFILL_TOKENS:
                    break
                longest, end = longest_with, end + 1
            logits.append(self._prefill(prompts[start : start + end], longest, copies))
            start += end
        self.logits = torch.cat(logits)

    def _prefill(self, prompts, longest, copies):
        device = self.logits.device
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        first = self.rows
        hidden = self.policy.prefill(ids.to(device), lengths, self.cache)
        last = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        logits = self.policy.project(last).float()
        if copies > 1:
            self.cache.fork(first, len(prompts), copies)
            logits = logits.repeat_interleave(copies, dim=0)
        return logits

    @torch.inference_mode()
    def step(self, tokens):
        """Appends one token (rows,) to each row; `logits` become those of the next."""
        hidden = self.policy.hidden(tokens[:, None], cache=self.cache)
        self.logits = self.policy.project(hidden[:, 0]).float()

    @torch.inference_mode()
    def drop(self, finished):
        """Lets rows go: finished (rows,) bool. Returns (kept,) the old row of each row that stays.

        Rows from the end move into the gaps, so that only as many rows are copied as go.
        """
        keep = int((~finished).sum())
        order = torch.arange(self.rows, device=finished.device)
        gaps = order[:keep][finished[:keep]]
        movers = order[keep:][~finished[keep:]]
        self.cache.copy_rows(movers, gaps)
        order[gaps] = movers
        self.cache.shrink(keep)
        self.logits[gaps] = self.logits[movers]
        self.logits = self.logits[:keep]
        return order[:keep]


def filter_logits(logits, *, temperature=1.0, top_k=0, top_p=1.0):
    """Logits (rows, V) of the distribution that is sampled from: what is cut off is -inf.

    temperature 0 keeps the likeliest token alone (the first among equals).
    """
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        # 0 for the likeliest; what is not finite stays so, or nobody would hear of it.
        return torch.full_like(logits, -torch.inf).scatter(-1, best, logits.gather(-1, best) * 0)
    if temperature < COLD:
        # Divided, even the likeliest would pass what a float holds.
        logits, temperature = logits - logits.amax(dim=-1, keepdim=True), max(temperature, COLDEST)
    if temperature != 1:
        logits = logits / temperature
    if 0 < top_k < logits.shape[-1]:
        values, indices = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, indices, values)
    if top_p < 1:
        ranked, indices = logits.sort(dim=-1, descending=True, stable=True)
        chances = ranked.softmax(dim=-1)
        before = chances.cumsum(dim=-1) - chances
        ranked = ranked.masked_fill(before >= top_p, -torch.inf)  # the likeliest has nothing before it, and stays
        logits = torch.empty_like(logits).scatter(-1, indices, ranked)
    return logits


def draw(logits, uniforms):
    """(tokens, logprobs), both (rows,). logits (rows, V) as sampled from; uniforms (rows,) float64 in [0, 1).

    Where the logits are no distribution (NaN, infinite) the logprob is not finite and the token means nothing.
    """
    chances = torch.softmax(logits, dim=-1)
    mass = chances.cumsum(dim=-1, dtype=torch.float64)
    # Strictly less than the whole mass, so that the token found always has some.
    sought = uniforms[:, None] * mass[:, -1:] * (1 - 2.0**-50)
    tokens = torch.searchsorted(mass, sought, right=True).clamp(max=logits.shape[-1] - 1)  # NaN is past the end
    return tokens[:, 0], chances.gather(1, tokens)[:, 0].log()


@torch.inference_mode()
def generate(
    policy,
    prompts,
    *,
    max_new_tokens,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    stop_token_ids=(),
    samples_per_prompt=1,
    seed=0,
    batch_size=512,
    only=None,
    stop=None,
    max_positions=None,
):
    """Completions of prompts (lists of ids), `samples_per_prompt` of each standing together.

    only: the places of the prompts that are drawn, all by default; their draws are those of a call that draws all.
    stop: a completion's ids so far -> whether it ends with them (StopStrings, say); never in a rollout, whose
          completions must be whole samples of the policy.
    max_positions: tokens of the longest prompt with its completion, where that is less than the policy's positions.

    batch_size bounds the rows decoded at once; prompts that wait take the places of rows that end. A row ends at a stop
    token (kept as its last id), after max_new_tokens, or where the policy's positions end. Raises ValueError for a
    prompt that leaves no room for a token, CheckpointError for weights that give no distribution.
    """
    most = min(policy.config.max_positions, max_positions or math.inf)
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) < most:
            raise ValueError(
                f"Prompt {number} has {len(prompt)} tokens; it needs at least 1 and at most {most - 1}, "
                f"so that one new token fits."
            )
    generator = torch.Generator().manual_seed(seed)
    copies = samples_per_prompt
    uniforms = torch.rand(len(prompts) * copies, max_new_tokens, dtype=torch.float64, generator=generator)
    if only is not None:
        mine = [place for place in range(len(prompts)) if place in only]
        prompts = [prompts[place] for place in mine]
        uniforms = uniforms.unflatten(0, (-1, copies))[mine].flatten(0, 1)
    if not prompts:
        return []
    device = policy.embedding.weight.device
    rows, new = uniforms.shape
    capacity = max(1, min(batch_size // copies, len(prompts))) * copies
    decoder = Decoder(policy, rows=capacity, columns=min(max(map(len, prompts)) + new, most))
    uniforms = uniforms.to(device)
    stop_ids = torch.tensor(sorted(set(stop_token_ids)), dtype=torch.long, device=device)
    ids = torch.zeros(rows, new, dtype=torch.long, device=device)
    logprobs = torch.zeros(rows, new, device=device)
    room = [min(new, most - len(prompt)) for prompt in prompts for _ in range(copies)]
    limits = torch.tensor(room, device=device)
    lengths, stopped = limits.clone(), torch.zeros(rows, dtype=torch.bool, device=device)
    owners = steps = torch.zeros(0, dtype=torch.long, device=device)  # sample of each row in use, and its tokens so far
    begun = 0  # prompts
    while begun < len(prompts) or decoder.rows:
        free = capacity - decoder.rows
        if begun < len(prompts) and (free >= REFILL_SHARE * capacity or not decoder.rows) and free >= copies:
            taken = prompts[begun : begun + free // copies]
            decoder.add(taken, copies=copies)
            fresh = torch.arange(begun * copies, (begun + len(taken)) * copies, device=device)
            owners, steps = torch.cat([owners, fresh]), torch.cat([steps, torch.zeros_like(fresh)])
            begun += len(taken)
        logits = filter_logits(decoder.logits, temperature=temperature, top_k=top_k, top_p=top_p)
        tokens, chosen = draw(logits, uniforms[owners, steps])
        ids[owners, steps] = tokens
        logprobs[owners, steps] = chosen
        steps = steps + 1
        ended = torch.isin(tokens, stop_ids) | ~torch.isfinite(chosen)
        if stop is not None:
            so_far = zip(ids[owners].tolist(), steps.tolist(), strict=True)
            ended |= torch.tensor([stop(row[:length]) for row, length in so_far], device=device)
        finished = ended | (limits[owners] <= steps)
        if bool(finished.any()):
            lengths[owners[finished]] = steps[finished]
            stopped[owners[ended]] = True
            kept = decoder.drop(finished)
            owners, steps, tokens = owners[kept], steps[kept], tokens[kept]
        if decoder.rows:
            decoder.step(tokens)
    if not bool(torch.isfinite(logprobs).all()):
        raise CheckpointError(
            "The policy's distribution over the next token is not finite: its weights are damaged, or training ran "
            "away; take another checkpoint."
        )
    ids, logprobs, stopped = ids.tolist(), logprobs.tolist(), stopped.tolist()
    return [
        Sample(ids[row][:length], logprobs[row][:length], "stop" if stopped[row] else "length")
        for row, length in enumerate(lengths.tolist())
    ]
