"""Scorers: what gives whole conversations a score. PPO and evaluation know a reward model only through here.

A scorer may be one reward model, an ensemble of them, or a Python function that is registered by name in code (a
setting can pick one of those names, never name a file or a module to import).
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from training.engine import checkpoint, data, packing
from training.engine.config import ConfigError
from training.engine.tokenizer import message_text

BATCH_TOKENS_GPU = 8192  # padded tokens scored at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A prompt and one completion of it."""

    messages: Sequence[dict]  # the last is the assistant's: the completion
    token_ids: Sequence[int]  # of the policy that made it: prompt and completion, stop token included


class Scores(NamedTuple):
    """What a scorer says of B conversations."""

    mean: Tensor  # (B,) float32
    std: Tensor | None  # (B,) deviation among the members; None where there is one word only
    components: Tensor  # (B, members)


class Scorer(Protocol):
    def score(self, conversations: Sequence[Conversation]) -> Scores: ...


class RewardModelScorer:
    """Scores by one reward model or the mean of several."""

    def __init__(self, members, *, tokenizer=None):
        """tokenizer: the reward models' own, where it is not the policy's; token ids are then made anew."""
        self.members = [member.eval() for member in members]
        self.tokenizer = tokenizer

    @torch.no_grad()
    def score(self, conversations):
        rows = [self.encode(conversation) for conversation in conversations]
        components = torch.stack([score_rows(member, rows) for member in self.members], dim=1)
        std = components.std(1) if len(self.members) > 1 else None
        return Scores(components.mean(1), std, components)

    @property
    def max_positions(self):
        """The longest conversation that every member reads, in the reward models' own tokens."""
        return min(member.config.max_positions for member in self.members)

    def encode(self, conversation):
        """The conversation in the reward models' own tokens."""
        if self.tokenizer is None:
            return list(conversation.token_ids)
        *prompt, completion = conversation.messages
        return [*self.tokenizer.encode_prompt(prompt), *self.tokenizer.encode_completion([completion])]


class FunctionScorer:
    """Scores by a Python function (prompt messages, completion text) -> number."""

    def __init__(self, function):
        self.function = function

    def score(self, conversations):
        scores = torch.tensor(
            [self.function(list(c.messages[:-1]), message_text(c.messages[-1])) for c in conversations],
            dtype=torch.float32,
        )
        return Scores(scores, None, scores[:, None])


def brevity(prompt, text):
    """Minus the completion's length in hundreds of characters."""
    return -len(text) / 100


def valid_json(prompt, text):
    """1 where the completion is JSON, else 0."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


# The allow-list of names that a setting may pick. Code of one's own adds to it before it calls a stage.
PYTHON_SCORERS: dict[str, Callable[[], Scorer]] = {
    "brevity": lambda: FunctionScorer(brevity),
    "valid_json": lambda: FunctionScorer(valid_json),
}


def conversations(prompts, samples, tokenizer):
    """A Conversation of each prompt (with messages and token_ids) and its sample (with ids)."""
    return [
        Conversation(
            messages=[*prompt.messages, {"role": "assistant", "content": tokenizer.decode(sample.ids)}],
            token_ids=[*prompt.token_ids, *sample.ids],
        )
        for prompt, sample in zip(prompts, samples, strict=True)
    ]


def readable(messages):
    """A prompt as people read it in samples: its text, with roles where there is more than the user's turn."""
    if [message["role"] for message in messages] == ["user"]:
        return message_text(messages[0])
    return "\n\n".join(f"{message['role']}: {message_text(message)}" for message in messages)


def reads(judge, conversation):
    """Whether a scorer can read so long a conversation."""
    return not isinstance(judge, RewardModelScorer) or len(judge.encode(conversation)) <= judge.max_positions


def has_doubt(judge):
    """Whether a scorer's scores may come with a deviation."""
    return len(judge.members) > 1 if isinstance(judge, RewardModelScorer) else not isinstance(judge, FunctionScorer)


def max_positions(judge):
    """The longest conversation that a scorer reads, in the policy's tokens; infinite where they are not its own."""
    if isinstance(judge, RewardModelScorer) and judge.tokenizer is None:
        return judge.max_positions
    return math.inf


def score_rows(reward_model, rows, branches=()):
    """(B,) float32 scores of lists of token ids, in their order.

    branches: for each row the token ids of what may follow it; then each row's branches are scored, and the row itself,
    which they share, is computed once. No row may be without them. Raises DataError for what the reward model's
    positions do not hold: learned ones end there, and rotary ones say something, but nothing that was learned.
    """
    branches = branches or [()] * len(rows)
    device = reward_model.device
    sizes = [len(row) + sum(map(len, tails)) for row, tails in zip(rows, branches, strict=True)]
    ends = [len(row) + max(map(len, tails), default=0) for row, tails in zip(rows, branches, strict=True)]
    if (longest := max(ends, default=0)) > reward_model.config.max_positions:
        raise data.DataError(
            f"A prompt with its completion has {longest} tokens and the reward model reads at most "
            f"{reward_model.config.max_positions}; lower max_new_tokens, leave long prompts out, or take another one."
        )
    scores = [None] * len(rows)
    most = BATCH_TOKENS_GPU if device.type == "cuda" else data.CPU_PASS_TOKENS
    for batch in data.batches_by_length(sizes, most_tokens=most):
        flat = packing.flatten([part for i in batch for part in (rows[i], *branches[i])], device=device)
        layout = packing.Layout(
            [len(rows[i]) for i in batch], [list(map(len, branches[i])) for i in batch], device=device
        )
        found = reward_model.values_packed(flat, layout, layout.ends()).float().cpu()
        for i, part in zip(batch, found.split([max(len(branches[i]), 1) for i in batch]), strict=True):
            scores[i] = part
    return torch.cat([torch.empty(0), *scores])


def load(path, *, policy_path=None, device="cpu"):
    """The scorer in a directory: a reward model or an ensemble of them.

    policy_path: whose token ids the conversations carry; where its tokenizer is another, or none is named, their
    messages are encoded anew.
    """
    tokenizer = checkpoint.load_tokenizer_of(path)
    if policy_path is not None and _says_the_same(tokenizer, checkpoint.load_tokenizer_of(policy_path)):
        tokenizer = None
    return RewardModelScorer(checkpoint.load_reward_models(path, device=device), tokenizer=tokenizer)


def named(key, name):
    """The registered Python scorer of this name. key: the setting that names it."""
    if name not in PYTHON_SCORERS:
        raise ConfigError(f"{key}={name!r} is not registered; registered are: {', '.join(sorted(PYTHON_SCORERS))}.")
    return PYTHON_SCORERS[name]()


def _says_the_same(tokenizer, other):
    return tokenizer.backend.to_str() == other.backend.to_str() and tokenizer.template == other.template
