"""Chat messages: what a valid one is, its text, and the digest that names a conversation."""

import hashlib
import json

from django.utils.translation import gettext as _

ROLES = ("system", "user", "assistant")
MAX_MESSAGES = 1_000
MAX_PARTS = 1_000
MAX_TEXT = 2_000_000  # characters of one conversation


class MessageError(ValueError):
    """A message that cannot be stored. `field` is a path such as "messages.0.content"."""

    def __init__(self, field, message):
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def canonical_json(value):
    """Sorted keys, no spaces, UTF-8 as it is: the text over which digests are taken."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_json(value):
    return hashlib.sha256(canonical_json(value).encode("utf-8")).hexdigest()


def messages_digest(messages):
    return sha256_of_json(messages)


def content_text(content, instead=lambda part: ""):
    """A string as it is; of typed parts, the text parts joined as the engine joins them. instead: of the others."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part.get("type") == "text" else instead(part) for part in content)


def message_text(message):
    return content_text(message["content"])


def text_sha256(message):
    return hashlib.sha256(message_text(message).encode("utf-8")).hexdigest()


def check_text(text, *, field, max_length=MAX_TEXT):
    """Raises MessageError unless `text` is a string that every database, file and page can hold."""
    if not isinstance(text, str):
        raise MessageError(field, _("must be a text."))
    if len(text) > max_length:
        raise MessageError(
            field,
            _("is %(length)d characters long; the most is %(limit)d.") % {"length": len(text), "limit": max_length},
        )
    if "\x00" in text:
        raise MessageError(field, _("contains a NUL character, which cannot be stored; remove it."))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MessageError(
            field, _("contains half of a surrogate pair, which is not valid Unicode; remove it.")
        ) from None


def check_content(content, *, field):
    if isinstance(content, str):
        check_text(content, field=field)
        return
    if not isinstance(content, list):
        raise MessageError(field, _("must be a text or a list of parts."))
    if not content or len(content) > MAX_PARTS:
        raise MessageError(field, _("must have from 1 to %(limit)d parts.") % {"limit": MAX_PARTS})
    for number, part in enumerate(content):
        path = f"{field}.{number}"
        if not isinstance(part, dict) or part.get("type") != "text":
            raise MessageError(path, _('must be a part like {"type": "text", "text": "…"}; other types come later.'))
        unknown = sorted(set(part) - {"type", "text"})
        if unknown:
            raise MessageError(path, _("has the unknown key “%(key)s”.") % {"key": unknown[0][:80]})
        check_text(part.get("text"), field=f"{path}.text")


def check_message(message, *, field, roles=ROLES):
    """Raises MessageError unless `message` is {"role": one of roles, "content": text or typed parts}."""
    if not isinstance(message, dict):
        raise MessageError(field, _('must be a message like {"role": "user", "content": "…"}.'))
    unknown = sorted(set(message) - {"role", "content"})
    if unknown:
        raise MessageError(field, _("has the unknown key “%(key)s”.") % {"key": unknown[0][:80]})
    if not isinstance(message.get("role"), str) or message["role"] not in roles:
        raise MessageError(f"{field}.role", _("must be one of: %(roles)s.") % {"roles": ", ".join(roles)})
    if "content" not in message:
        raise MessageError(f"{field}.content", _("is missing."))
    check_content(message["content"], field=f"{field}.content")


def check_prompt(messages, *, field="messages"):
    """Raises MessageError unless `messages` is a conversation that an assistant can answer."""
    if not isinstance(messages, list) or not messages:
        raise MessageError(field, _("must be a list of at least one message."))
    if len(messages) > MAX_MESSAGES:
        raise MessageError(
            field,
            _("has %(length)d messages; the most is %(limit)d.") % {"length": len(messages), "limit": MAX_MESSAGES},
        )
    for number, message in enumerate(messages):
        check_message(message, field=f"{field}.{number}")
        if message["role"] == "system" and number > 0:
            raise MessageError(f"{field}.{number}.role", _("is system, which may only be the first message."))
    if messages[-1]["role"] != "user":
        raise MessageError(f"{field}.{len(messages) - 1}.role", _("must be user: a prompt ends with what is asked."))
    if not message_text(messages[-1]).strip():
        raise MessageError(f"{field}.{len(messages) - 1}.content", _("is empty."))
    total = sum(len(message_text(message)) for message in messages)
    if total > MAX_TEXT:
        raise MessageError(
            field, _("has %(length)d characters; the most is %(limit)d.") % {"length": total, "limit": MAX_TEXT}
        )


def can_be_ranked(message):
    """Whether a model's message can be stored and read: it has some text, and no character that no database takes."""
    try:
        check_answer(message)
    except MessageError:
        return False
    return bool(message_text(message).strip())


def check_answer(message, *, field="message"):
    """Raises MessageError unless `message` is an assistant message."""
    check_message(message, field=field, roles=("assistant",))
    if len(message_text(message)) > MAX_TEXT:
        raise MessageError(field, _("has more than %(limit)d characters.") % {"limit": MAX_TEXT})
