"""What the networks say of one answer, token by token.

    python -m training.engine inspect --policy DIR [--ref-policy DIR] [--reward-model DIR] [--prompt TEXT --answer TEXT]

Prompt and answer are asked for where they are not given. log-prob: of the token under the policy; KL: of the policy
from the reference over the whole vocabulary at that place; value: the reward model's score of all that stands before
the token, which is where a separate value network starts.
"""

import argparse
import sys
from dataclasses import dataclass

import torch

from training.engine import checkpoint, rollout, scorer
from training.engine.config import ConfigError

END = "."  # a line of its own that ends what is pasted


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer. Figures are None where the network that gives them is not there."""

    text: str
    logprob: float  # nats
    ref_logprob: float | None
    kl: float | None  # nats
    value: float | None


@torch.no_grad()
def look(prompt_ids, completion_ids, *, decode, policy, ref_policy=None, reward_model=None, temperature=1.0):
    """Tokens of a completion. decode: ids -> text. Raises ValueError for an empty prompt or completion."""
    part = rollout.collate([prompt_ids], [completion_ids], pad_id=0, device=policy.device)
    logits = rollout.action_logits(policy, part)
    columns = {"logprob": rollout.action_logprobs(logits, part, temperature=temperature)}
    if ref_policy is not None:
        ref_logits = rollout.action_logits(ref_policy, part)
        found = rollout.compare(logits, ref_logits, part, temperature=temperature)
        columns |= {"ref_logprob": found["ref_logprobs"], "kl": found["exact_kl"]}
    if reward_model is not None:
        columns["value"] = part.spread(reward_model.values_packed(part.tokens, part.layout, part.decisions))
    numbers = {name: column[0].tolist() for name, column in columns.items()}
    return [
        Token(
            text=decode([token]),
            **{name: numbers[name][place] if name in numbers else None for name in Token.__slots__ if name != "text"},
        )
        for place, token in enumerate(completion_ids)
    ]


def main(arguments):
    """The command: loads the networks, reads prompt and answer, prints the table. Raises ConfigError and its like."""
    options = parse(arguments)
    tokenizer = checkpoint.load_tokenizer_of(options.policy)
    policy = checkpoint.load_policy(options.policy)
    ref_policy = checkpoint.load_policy(options.ref_policy) if options.ref_policy else None
    if ref_policy is not None and ref_policy.config.vocab_size != policy.config.vocab_size:
        raise ConfigError("--ref-policy has another vocabulary than --policy, so there is no KL between them.")
    judge = scorer.load(options.reward_model, policy_path=options.policy) if options.reward_model else None
    prompt = options.prompt if options.prompt is not None else ask("prompt")
    answer = options.answer if options.answer is not None else ask("answer")
    messages = [{"role": "user", "content": prompt}]
    completion = [{"role": "assistant", "content": answer}]
    prompt_ids, completion_ids = tokenizer.encode_prompt(messages), tokenizer.encode_completion(completion)
    most = min(network.config.max_positions for network in (policy, ref_policy or policy))
    if len(prompt_ids) + len(completion_ids) > most:
        raise ConfigError(
            f"Prompt and answer have {len(prompt_ids) + len(completion_ids)} tokens together; the policy and its "
            f"reference read at most {most}: shorten one."
        )
    talk = scorer.Conversation(messages=[*messages, *completion], token_ids=[*prompt_ids, *completion_ids])
    if judge is not None and not scorer.reads(judge, talk):
        raise ConfigError(
            f"Prompt and answer are longer than the {judge.max_positions} tokens that --reward-model reads: "
            "shorten one."
        )
    aligned = judge is not None and judge.tokenizer is None  # else its tokens are not the policy's
    tokens = look(
        prompt_ids,
        completion_ids,
        decode=lambda ids: tokenizer.decode(ids, skip_special_tokens=False),
        policy=policy,
        ref_policy=ref_policy,
        reward_model=judge.members[0] if aligned else None,
        temperature=options.temperature,
    )
    print(table(tokens))
    if judge is not None:
        scores = judge.score([talk])
        members = "" if scores.std is None else f", the deviation among {len(judge.members)} is {scores.std.item():.3f}"
        print(f"\nscore {scores.mean.item():.3f}{members}")


def table(tokens):
    """The tokens as lines for a terminal, sums below; a column without figures is left out."""
    names = {"logprob": "log-prob", "ref_logprob": "reference", "kl": "KL", "value": "value"}
    present = [name for name in names if tokens and getattr(tokens[0], name) is not None]
    shown = [repr(token.text)[1:-1] for token in tokens]
    width = max(map(len, ("token", *shown)))
    lines = [f"{'token':{width}}" + "".join(f"{names[name]:>11}" for name in present)]
    lines += [
        f"{text:{width}}" + "".join(f"{getattr(token, name):11.3f}" for name in present)
        for text, token in zip(shown, tokens, strict=True)
    ]
    sums = [sum(getattr(token, name) for token in tokens) for name in present if name != "value"]
    return "\n".join([*lines, f"{'sum':{width}}" + "".join(f"{value:11.3f}" for value in sums)])


def ask(what):
    """Text pasted on standard input, up to a line with a single dot or its end."""
    if sys.stdin.isatty():
        print(f"Paste the {what}, then a line with a single {END}", file=sys.stderr)
    lines = []
    for line in sys.stdin:
        if line.rstrip("\n") == END:
            break
        lines.append(line)
    text = "".join(lines).rstrip("\n")
    if not text:
        raise ConfigError(f"There is no {what}; paste it and end it with a line that holds a single {END}.")
    return text


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m training.engine inspect", description="Shows an answer token by token as the networks see it."
    )
    parser.add_argument("--policy", required=True, metavar="DIR", help="the policy's checkpoint directory")
    parser.add_argument("--ref-policy", metavar="DIR", help="the reference, for the KL")
    parser.add_argument("--reward-model", metavar="DIR", help="the reward model or ensemble, for score and values")
    parser.add_argument("--prompt", metavar="TEXT", help="the prompt; asked for if not given")
    parser.add_argument("--answer", metavar="TEXT", help="the answer; asked for if not given")
    parser.add_argument("--temperature", type=positive, default=1.0, metavar="T", help="divides the logits")
    return parser.parse_args(arguments)


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value
