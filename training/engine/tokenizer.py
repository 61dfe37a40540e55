"""Byte-level BPE and chat templates, over the `tokenizers` library.

Text that people or models wrote never becomes a control token, however much it looks like one: where it does, the text
is encoded by a copy of the tokenizer in which every control token has another, private name. All else gives the ids of
the transformers library.

A control token is one that the file calls special, or an added one with a character that is neither letter nor digit
nor space (`<think>`). Added words and runs of spaces (GPT-NeoX has those) are plain vocabulary.

A prompt and its completion are encoded apart, so that the prompt's ids never depend on the completion.
"""

import hashlib
import json
import logging
import re
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from training.engine import chat_template
from training.engine.chat_template import CHAT_TEMPLATE

PAD, END_OF_TEXT, TURN_START, TURN_END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT, TURN_START, TURN_END)

# GPT-2's pattern, with digits one by one and without its English contractions.
SPLIT_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# A checkpoint's vocabulary may be large; a file beyond this is not a vocabulary.
MAX_FILE_BYTES = 100_000_000
MAX_TEMPLATE_BYTES = 1_000_000

log = logging.getLogger(__name__)

TOKENIZER, TOKENIZER_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"


class TokenizerError(ValueError):
    """A tokenizer or chat template cannot be used. The message is one sentence for people."""


def train(texts, *, vocab_size):
    """A byte-level BPE with the ChatML template, from an iterable of texts. The vocabulary may end up smaller."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend, template=CHAT_TEMPLATE, pad_token=PAD, eos_token=END_OF_TEXT)


def load(path):
    """The tokenizer of a checkpoint directory, or of a tokenizer.json. Raises TokenizerError."""
    path = Path(path)
    folder = path.parent if path.is_file() else path
    backend = _read_backend(path if path.is_file() else folder / TOKENIZER)
    config = _read_json(folder / TOKENIZER_CONFIG)
    generation = _read_json(folder / "generation_config.json")
    model = _read_json(folder / "config.json")
    warn_of_code(folder / TOKENIZER_CONFIG, config)
    eos_token = _token_text(config.get("eos_token")) or _token_of_id(backend, model.get("eos_token_id"))
    pad_token = _token_text(config.get("pad_token"))
    stops = generation.get("eos_token_id", model.get("eos_token_id"))
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    return Tokenizer(
        backend,
        template=_read_template(folder, config),
        pad_token=pad_token,
        eos_token=eos_token,
        bos_token=_token_text(config.get("bos_token")),
        stop_ids=[i for i in stops if isinstance(i, int)],
    )


def warn_of_code(path, config):
    """Says that code which a configuration names is not run."""
    for key in ("auto_map", "trust_remote_code"):
        if config.get(key):
            log.warning("%s names code of its own (%s); it is ignored, nothing in a checkpoint is run.", path, key)


class Tokenizer:
    """Text to ids and back, for one vocabulary and one chat template."""

    def __init__(self, backend, *, template, pad_token, eos_token, bos_token=None, stop_ids=()):
        self.backend = backend
        self.template = template
        self.pad_token, self.eos_token, self.bos_token = pad_token, eos_token, bos_token
        added = backend.get_added_tokens_decoder()
        self._control = {token.content: i for i, token in added.items() if _is_control(token)}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(re.escape(token) for token in longest_first) or r"(?!)")
        # Such a token is looked for in text that was lower-cased, say: a pattern need not find what the library finds.
        self._needs_guard = backend.normalizer is not None and any(added[i].normalized for i in self._control.values())
        self._guarded = None  # a Guarded, made when it is needed
        self.eos_id = self._id_of(eos_token, "end-of-text")
        # A vocabulary without padding (GPT-2) pads with 0: masks, never ids, say what is real.
        self.pad_id = 0 if pad_token is None else self._id_of(pad_token, "padding")
        found = {self.eos_id, *stop_ids}
        end_of_turn = self._find_end_of_turn()
        self.end_of_turn_id = self.eos_id if end_of_turn is None else end_of_turn
        self.stop_ids = tuple(sorted(found | {self.end_of_turn_id}))

    @property
    def vocab_size(self):
        """One more than the highest id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def template_digest(self):
        """sha256 of the chat template, or "" without one."""
        return hashlib.sha256(self.template.encode()).hexdigest() if self.template else ""

    def encode(self, text):
        """Ids of plain text; control-looking strings stay text."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts):
        """Ids of many plain texts."""
        texts = list(texts)
        control = set(self._control.values())
        return [
            self._guard(text).encode(text) if control.intersection(found.ids) else found.ids
            for text, found in zip(texts, self.backend.encode_batch_fast(texts, add_special_tokens=False), strict=True)
        ]

    def decode(self, ids, *, skip_special_tokens=True):
        """Text of ids; bytes that are no UTF-8 become the replacement character."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def apply_chat_template(self, messages, *, add_generation_prompt=False):
        """Ids of a conversation."""
        return self._encode_rendered(*self._render(messages, add_generation_prompt))

    def encode_prompt(self, messages):
        """Ids of a prompt, up to where the assistant's completion begins."""
        return self.apply_chat_template(messages, add_generation_prompt=True)

    def encode_completion(self, completion):
        """Ids of a completion, the end-of-turn token included. completion: text, or a list of one message."""
        if not isinstance(completion, str):
            if len(completion) != 1:
                raise TokenizerError(f"A completion is one assistant message; this one has {len(completion)} messages.")
            completion = message_text(completion[0])
        return [*self.encode(completion), self.end_of_turn_id]

    def save(self, folder):
        """Writes tokenizer.json, tokenizer_config.json and chat_template.jinja."""
        folder = Path(folder)
        self.backend.save(str(folder / TOKENIZER), pretty=False)
        config = {
            # Not AutoTokenizer's guess by model type: that may replace our pre-tokenizer.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "eos_token": self.eos_token,
            "pad_token": self.pad_token,
            "bos_token": self.bos_token,
            "unk_token": None,
        }
        _write_text(folder / TOKENIZER_CONFIG, json.dumps(config, ensure_ascii=False, indent=2, sort_keys=True) + "\n")
        if self.template:
            _write_text(folder / TEMPLATE, self.template)

    def _id_of(self, token, what):
        found = None if token is None else self.backend.token_to_id(token)
        if found is None:
            raise TokenizerError(
                f"The tokenizer has no {what} token ({token!r} is not in its vocabulary); "
                f"name one in {TOKENIZER_CONFIG}."
            )
        return found

    def _find_end_of_turn(self):
        """The control token that the template writes after an assistant's text, or None."""
        if not self.template:
            return None
        mark = "plumbline"
        try:
            text, _ = self._render([{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}], False)
        except TokenizerError:
            return None
        after = text.rpartition(mark)[2]
        return next((self._control[token] for token in self._control_pattern.findall(after)), None)

    def _render(self, messages, add_generation_prompt):
        """(text, {control-looking text that people wrote: what stands for it there}) of a conversation."""
        if not self.template:
            raise TokenizerError(
                f"This checkpoint has no chat template, so it cannot read messages; add {TEMPLATE} to its directory."
            )
        messages = [_plain_message(message) for message in messages]
        written = "".join(_texts_in(messages))
        found = sorted(set(self._control_pattern.findall(written)))
        sentinel = _unused_in(self.template + written, range(0xE000, 0xF000))
        hidden = {content: f"{sentinel}{chr(0xF0000 + number)}{sentinel}" for number, content in enumerate(found)}
        if hidden:
            messages = _with_texts(messages, lambda text: self._control_pattern.sub(lambda m: hidden[m[0]], text))
        names = {"bos_token": self.bos_token, "eos_token": self.eos_token, "pad_token": self.pad_token}
        values = {name: token for name, token in names.items() if token is not None}
        values |= {"messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            return chat_template.render(self.template, {**values, "tools": None, "documents": None}), hidden
        except chat_template.TemplateError as error:
            raise TokenizerError(f"The chat template {error}; use another template.") from None

    def _encode_rendered(self, text, hidden):
        if not hidden and not self._needs_guard:
            return self.backend.encode(text, add_special_tokens=False).ids
        guard = self._guard(text)
        text = self._control_pattern.sub(lambda match: guard.names[match[0]], text)
        for content, place in hidden.items():
            text = text.replace(place, content)
        return guard.encode(text)

    def _guard(self, text):
        """A Guarded whose private names do not occur in the text."""
        if self._guarded is None or self._guarded.mark in text:
            self._guarded = Guarded(self.backend, self._control, mark=_unused_in(text, range(0xF000, 0xF900)))
        return self._guarded


class Guarded:
    """A tokenizer in which control tokens keep their ids under private names, so that no text of people names one."""

    def __init__(self, backend, control, *, mark):
        """control: {content: id}. mark: a character that the texts to come do not hold."""
        self.mark = mark
        self.names = {content: f"{mark}{chr(0xF0000 + number)}{mark}" for number, content in enumerate(control)}
        values = json.loads(backend.to_str())
        values["post_processor"] = values["truncation"] = values["padding"] = None
        for token in values["added_tokens"]:
            if token["content"] in self.names:
                # Looked for in the text as it is: a normalizer may drop characters of private use.
                token |= {"content": self.names[token["content"]], "normalized": False}
        self._rename_in_model(values["model"])
        self._backend = tokenizers.Tokenizer.from_str(json.dumps(values))
        assert all(self._backend.token_to_id(self.names[content]) == i for content, i in control.items())

    def encode(self, text):
        """Ids of a text; private names in it become their control tokens."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def _rename_in_model(self, model):
        # A model that looks whole words up would find a control token in its vocabulary, added or not.
        vocabulary = model["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of piece and score
            model["vocab"] = [[self.names.get(piece, piece), score] for piece, score in vocabulary]
            return
        renamed = self.names.keys() & vocabulary.keys()
        model["vocab"] = {self.names.get(piece, piece): i for piece, i in vocabulary.items()}
        if model.get("unk_token") in self.names:
            model["unk_token"] = self.names[model["unk_token"]]
        if renamed and "merges" in model:
            model["merges"] = [pair for pair in model["merges"] if renamed.isdisjoint(_parts(pair))]


def message_text(message):
    """The text of a message, typed parts joined. Raises TokenizerError for parts that are not text."""
    content = message["content"]
    if isinstance(content, str):
        return content
    for part in content:
        if part.get("type") != "text":
            raise TokenizerError(f"A message part of type {part.get('type')!r} cannot be read yet; only text can.")
    return "".join(part["text"] for part in content)


def _plain_message(message):
    return {**message, "content": message_text(message)}


def _is_control(token):
    return token.special or not all(character.isalnum() or character.isspace() for character in token.content)


def _unused_in(text, codes):
    """A character, of private use, that the text does not hold."""
    return next(chr(code) for code in codes if chr(code) not in text)


def _texts_in(value):
    """Every text in a nest of lists and dictionaries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(item)


def _with_texts(value, change):
    """The same nest with every text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _with_texts(item, change) for key, item in value.items()}
    return [_with_texts(item, change) for item in value] if isinstance(value, (list, tuple)) else value


def _parts(pair):
    """Both sides of a merge, and what they make."""
    left, right = pair.split(" ") if isinstance(pair, str) else pair
    return left, right, left + right


def _read_backend(path):
    if not path.is_file():
        raise TokenizerError(f"There is no {TOKENIZER} at {path.parent}; a checkpoint needs one beside its weights.")
    text = _read_text(path, MAX_FILE_BYTES)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path} is not a tokenizer that can be read: {_one_line(error)}.") from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _read_text(path, most):
    if path.stat().st_size > most:
        raise TokenizerError(f"{path} is larger than {most // 1_000_000} MB, which it cannot need.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{path} is not UTF-8 text.") from None


def _read_json(path):
    if not path.is_file():
        return {}
    text = _read_text(path, MAX_FILE_BYTES)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {_one_line(error)}.") from None
    if not isinstance(values, dict):
        raise TokenizerError(f"{path} must hold one JSON object.")
    return values


def _read_template(folder, config):
    if (folder / TEMPLATE).is_file():
        return _read_text(folder / TEMPLATE, MAX_TEMPLATE_BYTES)
    template = config.get("chat_template")  # older checkpoints keep it here, some several by name
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _token_text(token):
    return token.get("content") if isinstance(token, dict) else token


def _token_of_id(backend, token_id):
    token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
    return backend.id_to_token(token_id) if isinstance(token_id, int) else None


def _write_text(path, text):
    # newline="": the template's own line ends are what its digest was taken of.
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def _one_line(error):
    return " ".join(str(error).split())[:200]
