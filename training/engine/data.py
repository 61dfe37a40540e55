"""Readers of the files that stages take: prompts, demonstrations, rankings, documents. And batches of what was read.

Every fault is a DataError that names file, line, key and rule. Keys that are not known are ignored.
"""

import codecs
import dataclasses
import hashlib
import json
import math
from pathlib import Path

import torch

MAX_LINE_BYTES = 16_000_000
# Judgments that measure must never train.
MEASURING_PURPOSES = ("eval", "gold")
ROLES = ("system", "user", "assistant", "tool")
# Padded tokens in one pass over a network on a CPU: few enough that what is computed of them stays in its caches.
CPU_PASS_TOKENS = 1024
# Of training: products are so quick there that what every pass does to weights and their gradients counts.
CPU_PASS_TOKENS_BFLOAT16 = 2048


class DataError(ValueError):
    """A file cannot be read. The message is one sentence for people."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One line of prompts.jsonl."""

    digest: str
    messages: list[dict]
    pool: str
    group: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One conversation whose last message is the completion to learn."""

    id: str
    prompt: list[dict]  # messages before the completion
    completion: list[dict]  # one assistant message
    weight: float
    pool: str
    group: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """One judgment: the ranked completions of a prompt. What was left unranked is not here."""

    id: str
    prompt_digest: str
    prompt: list[dict]
    completions: list[list[dict]]  # K, each a list of messages
    order: list[list[int]]  # tie groups of indices into completions, best first: a partition of range(K)
    weight: float
    group: str
    source: str

    @property
    def has_comparisons(self):
        """Whether the order says anything: at least two tie groups."""
        return len(self.order) > 1


def split_paths(text):
    """Paths separated by commas."""
    return [path.strip() for path in text.split(",") if path.strip()]


def load_prompts(path, *, pool="", limit=0):
    """Prompts of prompts.jsonl, in file order; those of one pool, and at most `limit`, if given."""
    found = []
    for where, row in read_jsonl(path):
        messages = _messages(where, row, "messages")
        prompt = Prompt(
            digest=_text(where, row, "digest", default="") or digest_of(messages),
            messages=messages,
            pool=_text(where, row, "pool", default=""),
            group=_text(where, row, "group", default="") or digest_of(messages),
        )
        if not pool or prompt.pool == pool:
            found.append(prompt)
    if not found:
        raise DataError(f"{path} has no prompts{f' of the pool {pool!r}' if pool else ''}; name another file or pool.")
    return found[:limit] if limit else found


def load_demonstrations(path, *, turns="last"):
    """Demonstrations of demonstrations.jsonl, in file order.

    turns: last learns a conversation's last message; all makes a Demonstration of each assistant turn, its prompt being
    all that stands before it.
    """
    found = []
    for where, row in read_jsonl(path):
        messages = _messages(where, row, "messages")
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise DataError(f"{where}: messages must be a prompt followed by one last message of role assistant.")
        taken = range(1, len(messages)) if turns == "all" else [len(messages) - 1]
        found += [
            Demonstration(
                id=_text(where, row, "id", default=""),
                prompt=messages[:place],
                completion=messages[place : place + 1],
                weight=_weight(where, row),
                pool=_text(where, row, "pool", default=""),
                group=_text(where, row, "group", default="") or digest_of(messages[:-1]),
            )
            for place in taken
            if messages[place]["role"] == "assistant"
        ]
    if not found:
        raise DataError(f"{path} has no demonstrations.")
    return found


def load_rankings(path, *, measuring=False):
    """Rankings in the native format (plumbline.ranking/1), in file order; unranked completions are left out.

    Refuses orders that are no partition of the completions, and rankings whose purpose is to measure, but where that is
    what they are read for.
    """
    found = []
    for where, row in read_jsonl(path):
        schema = row.get("schema")
        if schema != "plumbline.ranking/1":
            raise DataError(f"{where}: schema is {schema!r}; it must be 'plumbline.ranking/1'.")
        purpose = _text(where, row, "purpose", default="train")
        if purpose in MEASURING_PURPOSES and not measuring:
            raise DataError(f"{where}: a ranking of purpose {purpose!r} measures and must never train; leave it out.")
        found.append(_ranking(where, row))
    if not found:
        raise DataError(f"{path} has no rankings.")
    return found


def _ranking(where, row):
    prompt = _messages(where, row, "prompt")
    completions = row.get("completions")
    if not isinstance(completions, list) or not all(isinstance(item, dict) for item in completions):
        raise DataError(f"{where}: completions must be a list of objects.")
    by_id = {}
    for number, completion in enumerate(completions):
        key = completion.get("id")
        if not isinstance(key, str) or not key:
            raise DataError(f"{where}: completions[{number}].id must be text.")
        if key in by_id:
            raise DataError(f"{where}: completions[{number}].id={key!r} stands there twice.")
        by_id[key] = _messages(f"{where}: completions[{number}]", completion, "messages")
    groups, unranked = row.get("ranking"), row.get("unranked") or []
    if not isinstance(groups, list) or not all(isinstance(group, list) and group for group in groups):
        raise DataError(f"{where}: ranking must be a list of tie groups, each a list of completion ids.")
    if not isinstance(unranked, list):
        raise DataError(f"{where}: unranked must be a list of completion ids.")
    named = [key for group in groups for key in group] + unranked
    for key in named:
        if not isinstance(key, str) or key not in by_id:
            raise DataError(f"{where}: ranking names {key!r}, which is none of its completions.")
    for key in by_id:
        if named.count(key) != 1:
            times = "never" if key not in named else f"{named.count(key)} times"
            raise DataError(
                f"{where}: ranking and unranked must name each completion once; {key!r} stands there {times}."
            )
    ranked = [key for key in by_id if key not in unranked]
    digest = _text(where, row, "prompt_digest", default="") or digest_of(prompt)
    return Ranking(
        id=_text(where, row, "id", default=""),
        prompt_digest=digest,
        prompt=prompt,
        completions=[by_id[key] for key in ranked],
        order=[[ranked.index(key) for key in group] for group in groups],
        weight=_weight(where, row),
        group=_text(where, row, "group", default="") or digest,
        source=_text(where, row, "source", default=""),
    )


def load_documents(path):
    """Documents for tokenizer and pretraining, each a text or a list of messages.

    .jsonl with `text` or `messages` in each line, plain text with blank lines between documents, or a folder of both.
    """
    path = Path(path)
    files = sorted(p for p in path.iterdir() if p.suffix in (".txt", ".jsonl")) if path.is_dir() else [path]
    texts = [text for file in files for text in _documents_of(file)]
    texts = [text for text in texts if not isinstance(text, str) or text.strip()]
    if not texts:
        raise DataError(f"{path} has no documents.")
    return texts


def _documents_of(path):
    if path.suffix == ".jsonl":
        return [_document(where, row) for where, row in read_jsonl(path)]
    try:
        whole = path.read_bytes().removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    return whole.replace("\r\n", "\n").split("\n\n")


def _document(where, row):
    return _messages(where, row, "messages", (*ROLES, "note")) if "messages" in row else _text(where, row, "text")


def read_jsonl(path):
    """Yields ("FILE line N", object) of each line. Blank lines are passed over."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path} line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise DataError(f"{where}: the line is longer than {MAX_LINE_BYTES // 1_000_000} MB.")
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    yield where, _parse(where, line)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None


def _parse(where, line):
    def refuse_constant(name):
        raise ValueError(f"{name} is no JSON")

    def unique(pairs):
        keys = dict(pairs)
        if len(keys) != len(pairs):
            raise ValueError("an object has a key twice")
        return keys

    try:
        row = json.loads(line.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=unique)
    except UnicodeDecodeError:
        raise DataError(f"{where}: the line is not UTF-8 text.") from None
    except RecursionError:
        raise DataError(f"{where}: the line is nested too deep.") from None
    except ValueError as error:
        raise DataError(f"{where}: the line is not valid JSON ({str(error)[:120]}).") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: the line must be one JSON object.")
    return row


def _text(where, row, key, default=None):
    value = row.get(key, default)
    if value is None and default is not None:
        value = default
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} must be text.")
    _check_encodable(where, key, value)
    return value


def _check_encodable(where, key, value):
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{where}: {key} holds half of a character pair (a lone surrogate), which is no text."
        ) from None


def _weight(where, row):
    value = row.get("weight")
    value = 1.0 if value is None else value
    if type(value) not in (int, float) or not (0 <= value < math.inf):
        raise DataError(f"{where}: weight={value!r} must be a number, at least 0.")
    return float(value)


def _messages(where, row, key, roles=ROLES):
    messages = row.get(key)
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: {key} must be a list of at least one message.")
    return [_message(f"{where}: {key}[{number}]", message, roles) for number, message in enumerate(messages)]


def _message(where, message, roles):
    if not isinstance(message, dict):
        raise DataError(f"{where} must be an object with role and content.")
    role = message.get("role")
    if role not in roles:
        raise DataError(f"{where}.role={role!r} must be one of: {', '.join(roles)}.")
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    for part in parts:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise DataError(f"{where}.content must be text, or a list of parts of type text.")
        _check_encodable(where, "content", part["text"])
    return message


def digest_of(messages):
    """sha256 of the messages' canonical JSON."""
    canonical = json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def split_by_group(items, share, *, seed):
    """(training, validation): about `share` of the groups is held out, whole groups at a time, and the same ones
    whatever else is in the file. Groups are ordered by a hash of their name."""
    groups = sorted({item.group for item in items}, key=lambda group: _hash(seed, group))
    count = 0 if len(groups) < 2 or share <= 0 else min(max(1, round(share * len(groups))), len(groups) - 1)
    held_out = set(groups[:count])
    training = [item for item in items if item.group not in held_out]
    return training, [item for item in items if item.group in held_out]


def _hash(seed, group):
    return hashlib.sha256(f"{seed}:{group}".encode()).hexdigest()


def pad_batch(rows, pad_id, *, side="right"):
    """Lists of ids -> input_ids (B, T) long and attention_mask (B, T) bool."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        here = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[number, here] = torch.tensor(row, dtype=torch.long)
        mask[number, here] = True
    return ids, mask


def shuffled(count, *, seed, epoch):
    """Order of range(count) in an epoch. A function of seed and epoch alone, so a resumed run needs no cursor but
    its step."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()


def mixed_order(sizes, passes, *, seed, epoch):
    """Order of an epoch over data sets that stand one after another: each as often as `passes` says, a part of a pass
    being a part of the set, another one in each epoch. Every epoch is as long."""
    if all(count == 1 for count in passes):
        return shuffled(sum(sizes), seed=seed, epoch=epoch)
    taken, first = [], 0
    for number, (size, count) in enumerate(zip(sizes, passes, strict=True)):
        # Endless passes one after another, of which this epoch takes the next stretch.
        length = max(1, round(count * size)) if size else 0
        for place in range(epoch * length, (epoch + 1) * length):
            lap, index = divmod(place, size)
            if place == epoch * length or index == 0:
                order = shuffled(size, seed=seed + number + 1, epoch=lap)
            taken.append(first + order[index])
        first += size
    return [taken[index] for index in shuffled(len(taken), seed=seed, epoch=epoch)]


def pass_tokens(compute, *, on_gpu):
    """Tokens in one pass of training."""
    if compute.device.type == "cuda":
        return on_gpu
    return CPU_PASS_TOKENS_BFLOAT16 if compute.dtype is torch.bfloat16 else CPU_PASS_TOKENS


def batches_by_length(lengths, *, most_tokens):
    """Splits range(len(lengths)) into lists of indices of like length; padded, none has more than most_tokens (a single
    longer row stands alone)."""
    batches, longest = [], 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or (len(batches[-1]) + 1) * longest > most_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches
