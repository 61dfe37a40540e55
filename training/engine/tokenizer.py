"""Byte-level BPE and chat templates, over the `tokenizers` library.

Text that people or models wrote never becomes a control token: `encode` knows no special tokens at all, and a chat
template is rendered with special-looking strings in messages broken by a sentinel that goes again after the split.
Without such strings the ids equal those of the transformers library.

A prompt and its completion are encoded apart, so that the prompt's ids never depend on the completion.
"""

import datetime
import functools
import hashlib
import json
import re
import time
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.visitor
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

PAD, END_OF_TEXT, TURN_START, TURN_END = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, END_OF_TEXT, TURN_START, TURN_END)

# ChatML. A message of role `note` is text about the turn before it (a reader's remark in a pretraining text); it stands
# right behind that turn's end, so that a policy learns to know at the end of a turn what could be said about it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'note' -%}
{{ message['content'] }}
{%- else -%}
{{ ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '\\n<|im_start|>assistant\\n' }}
{%- endif -%}
"""

# GPT-2's pattern, with digits one by one and without its English contractions.
SPLIT_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

TEMPLATE_SECONDS = 2.0
TEMPLATE_CHARACTERS = 20_000_000
# A checkpoint's vocabulary may be large; a file beyond this is not a vocabulary.
MAX_FILE_BYTES = 100_000_000

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


class Tokenizer:
    """Text to ids and back, for one vocabulary and one chat template."""

    def __init__(self, backend, *, template, pad_token, eos_token, bos_token=None, stop_ids=()):
        self.backend = backend
        self.template = template
        self.pad_token, self.eos_token, self.bos_token = pad_token, eos_token, bos_token
        self._added = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
        self._control_ids = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._added_pattern = re.compile("|".join(re.escape(token) for token in longest_first) or r"(?!)")
        self._plain = _without_added_tokens(backend)
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
        batches = self._plain.encode_batch_fast(list(texts), add_special_tokens=False)
        return [self._never_control(text, found.ids) for text, found in zip(texts, batches, strict=True)]

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

    def _never_control(self, text, ids):
        # A vocabulary that looks whole words up may still hit a control token: character by character it cannot.
        if self._control_ids.isdisjoint(ids):
            return ids
        return [i for character in text for i in self._plain.encode(character, add_special_tokens=False).ids]

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
        return next((self._added[token] for token in self._added_pattern.findall(after)), None)

    def _render(self, messages, add_generation_prompt):
        """(text, sentinel): the rendered conversation, and the character that breaks special-looking content, or ""."""
        if not self.template:
            raise TokenizerError(
                f"This checkpoint has no chat template, so it cannot read messages; add {TEMPLATE} to its directory."
            )
        messages = [_plain_message(message) for message in messages]
        pattern = self._added_pattern
        texts = [value for message in messages for value in message.values() if isinstance(value, str)]
        sentinel = ""
        if any(pattern.search(text) for text in texts):
            joined = "".join(texts)
            sentinel = next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in joined)

            def split(match):
                return match[0][0] + sentinel + match[0][1:]

            messages = [
                {key: _break(value, pattern, split) if isinstance(value, str) else value for key, value in m.items()}
                for m in messages
            ]
        text = _render_template(
            self.template,
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self.bos_token or "",
            eos_token=self.eos_token,
            pad_token=self.pad_token or "",
        )
        return text, sentinel

    def _encode_rendered(self, text, sentinel):
        if not sentinel:
            return self.backend.encode(text, add_special_tokens=False).ids
        ids, start = [], 0
        for match in self._added_pattern.finditer(text):
            ids += self._encode_piece(text[start : match.start()], sentinel)
            ids.append(self._added[match[0]])
            start = match.end()
        return ids + self._encode_piece(text[start:], sentinel)

    def _encode_piece(self, text, sentinel):
        return self.encode(text.replace(sentinel, "")) if text else []


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


def _break(text, pattern, split):
    # Breaking one token may uncover another that overlapped it, so go on until none is left.
    while pattern.search(text):
        text = pattern.sub(split, text)
    return text


def _without_added_tokens(backend):
    values = json.loads(backend.to_str())
    values["added_tokens"] = []
    values["post_processor"] = None
    values["truncation"] = values["padding"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(values))


def _read_backend(path):
    if not path.is_file():
        raise TokenizerError(f"There is no {TOKENIZER} at {path.parent}; a checkpoint needs one beside its weights.")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise TokenizerError(f"{path} is larger than {MAX_FILE_BYTES // 1_000_000} MB, which no tokenizer needs.")
    try:
        backend = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"{path} is not a tokenizer that can be read: {_one_line(error)}.") from None
    backend.no_padding()
    backend.no_truncation()
    return backend


def _read_json(path):
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is not valid JSON: {_one_line(error)}.") from None
    if not isinstance(values, dict):
        raise TokenizerError(f"{path} must hold one JSON object.")
    return values


def _read_template(folder, config):
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
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


class _Limiter(jinja2.visitor.NodeTransformer):
    """Routes loops and joins through filters that look at the clock and at sizes."""

    def visit_For(self, node):
        self.generic_visit(node)
        node.iter = self._through("_until_late", node.iter)
        return node

    def visit_Concat(self, node):
        self.generic_visit(node)
        return self._through("_joined", jinja2.nodes.List(node.nodes, lineno=node.lineno))

    def _through(self, name, value):
        return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


class _LimitedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with a limit on the time that loops take and on the size of what they make."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def _parse(self, source, name, filename):
        return _Limiter().visit(super()._parse(source, name, filename))

    def call(self, context, function, /, *args, **kwargs):
        self.check_time()
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                _check_size(abs(value))  # of a width, a count
        return super().call(context, function, *args, **kwargs)

    def call_binop(self, context, operator, left, right):
        self.check_time()
        if operator == "*":
            size, times = (left, right) if isinstance(right, int) else (right, left)
            if isinstance(size, str | list | tuple) and isinstance(times, int):
                _check_size(len(size) * times)
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_size(max(left.bit_length(), 1) * right)
        if operator == "%" and isinstance(left, str):
            raise jinja2.sandbox.SecurityError("formatting with % is not allowed")
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            _check_size(len(left) + len(right))
        return super().call_binop(context, operator, left, right)

    def check_time(self):
        if time.monotonic() > self.deadline:
            raise TimeoutError

    deadline = float("inf")


def _check_size(size):
    if size > TEMPLATE_CHARACTERS:
        raise jinja2.sandbox.SecurityError("the text grows too long")


def _with_checked_sizes(function):
    @functools.wraps(function)
    def checked(*args, **kwargs):
        for value in (*args, *kwargs.values()):
            if isinstance(value, int):
                _check_size(abs(value))
        return function(*args, **kwargs)

    return checked


@functools.lru_cache(maxsize=8)
def _compiled(template):
    environment = _LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])

    def until_late(items):
        for item in items:
            environment.check_time()
            yield item

    def joined(items):
        texts = [str(item) for item in items]
        _check_size(sum(map(len, texts)))
        return "".join(texts)

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    for name in ("center", "indent", "batch", "slice"):
        environment.filters[name] = _with_checked_sizes(environment.filters[name])
    environment.filters["_joined"] = joined
    environment.filters["_until_late"] = until_late
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment, environment.from_string(template)


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _render_template(template, **values):
    try:
        environment, compiled = _compiled(template)
        environment.deadline = time.monotonic() + TEMPLATE_SECONDS
        pieces, size = [], 0
        for piece in compiled.generate(**values):
            environment.check_time()
            size += len(piece)
            _check_size(size)
            pieces.append(piece)
        return "".join(pieces)
    except TimeoutError:
        raise TokenizerError(
            f"The chat template ran for more than {TEMPLATE_SECONDS:g} seconds and was stopped; use another template."
        ) from None
    except Exception as error:  # a template may raise anything
        raise TokenizerError(f"The chat template cannot be rendered: {_one_line(error)}.") from None
