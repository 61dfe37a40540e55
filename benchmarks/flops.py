"""How much arithmetic a stage needs, and how fast this machine multiplies: the share of the peak is their ratio.

The formula counts products alone, a multiplication with its addition as two. Forward, for N tokens of which n are
wanted (whose log-prob or value somebody asks for), and P pairs of a token and one that it sees:

    2 N (parameters of the matrices below the last layer, and of its query, key and value)
    + 2 n (parameters of the last layer's other matrices, and of the output matrix where logits are wanted)
    + 4 L D P

A gradient is twice its forward pass. Norms, activations, softmax, optimizer and everything done twice or for padding
count as nothing.
"""

import time

import torch

PEAK_SIZE = 2048  # of the square matrices whose product is timed
PEAK_TRIES = 4


class Flops:
    """Counts the work of one architecture."""

    def __init__(self, architecture):
        a = architecture
        heads = a.n_heads * a.head_size
        self.qkv = a.hidden_size * (a.n_heads + 2 * a.n_kv_heads) * a.head_size
        self.rest = heads * a.hidden_size + a.hidden_size * a.intermediate_size * (3 if a.mlp == "swiglu" else 2)
        self.logits = a.hidden_size * a.vocab_size
        self.layers, self.width = a.n_layers, heads

    def forward(self, tokens, pairs, wanted, *, logits=True):
        """FLOPs of a forward pass, as the formula above says."""
        below = (self.layers - 1) * (self.qkv + self.rest) + self.qkv
        top = self.rest + (self.logits if logits else 0)
        return 2 * tokens * below + 2 * wanted * top + 4 * self.layers * self.width * pairs

    def sequences(self, prompts, completions, *, logits=True, wanted=None):
        """A forward pass over whole trajectories; by default every token of the completions is wanted."""
        found = zip(prompts, completions, strict=True)
        pairs = sum(seen(prompt + completion) for prompt, completion in found)
        wanted = sum(completions) if wanted is None else wanted
        return self.forward(sum(prompts) + sum(completions), pairs, wanted, logits=logits)

    def generation(self, prompts, completions):
        """Completions of prompts; completions: for each prompt, tokens of each of its samples."""
        pairs = sum(seen(prompt) for prompt in prompts)
        tokens, wanted = sum(prompts), 0
        for prompt, samples in zip(prompts, completions, strict=True):
            for length in samples:
                # The prompt's last token decides the first; the last one sampled is read by nobody.
                tokens, pairs, wanted = tokens + length - 1, pairs + seen(length - 1, after=prompt), wanted + length
        return self.forward(tokens, pairs, wanted)

    def ranking(self, prompt, completions):
        """Scores of a prompt's completions, the prompt read once."""
        pairs = seen(prompt) + sum(seen(length, after=prompt) for length in completions)
        return self.forward(prompt + sum(completions), pairs, len(completions), logits=False)

    def ppo(self, prompts, completions, *, epochs, shared):
        """One iteration: sample, score, look with policy, reference and value, and `epochs` updates of each network."""
        trajectories = self.sequences(prompts, completions)
        values = 0 if shared else self.sequences(prompts, completions, logits=False)
        score = self.sequences(prompts, completions, logits=False, wanted=len(prompts))
        rollout = self.generation(prompts, [[length] for length in completions])
        return rollout + score + 2 * trajectories + values + epochs * 3 * (trajectories + values)


def seen(length, *, after=0):
    """Pairs of each of `length` tokens in a row and those it sees, itself and `after` more before all of them."""
    return length * after + length * (length + 1) // 2


def peak(dtype):
    """FLOPs a processor second of the product of two large matrices, the best of a few tries."""
    one, other = (torch.randn(PEAK_SIZE, PEAK_SIZE).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(PEAK_TRIES):
        began = time.process_time()
        torch.mm(one, other)
        best = max(best, 2 * PEAK_SIZE**3 / (time.process_time() - began))
    return best
