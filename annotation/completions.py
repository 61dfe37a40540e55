"""Completions: every write to their table."""

from django.db import transaction
from django.utils.translation import gettext as _

from annotation import messages
from annotation.models import Completion, Prompt

GENERATOR_KINDS = ("checkpoint", "endpoint", "person", "import")
BATCH = 500
MAX_TOKENS = 2**31 - 1


class CompletionError(ValueError):
    """A row that cannot be a completion. `row` counts from 1."""

    def __init__(self, row, field, message):
        super().__init__(_("row %(row)d, %(field)s: %(message)s") % {"row": row, "field": field, "message": message})
        self.row = row
        self.field = field
        self.message = message


def add_completions(project, *, rows):
    """The new completions, in the order of `rows`; all or none.

    rows: dicts of "prompt" (a Prompt of this project) or "prompt_digest", "message" (an assistant message),
    "generator" ({"kind", "digest", …}) and optionally "finish_reason", "prompt_tokens", "completion_tokens",
    "token_ids", "external_id". A digest names the prompt in the newest set that holds it. Raises CompletionError.
    """
    rows = list(rows)
    prompts = find_prompts(project, rows)
    completions = [build_completion(number, row, prompts) for number, row in enumerate(rows, start=1)]
    with transaction.atomic():
        Completion.objects.bulk_create(completions, batch_size=BATCH)
    return completions


def find_prompts(project, rows):
    """{row index: Prompt of this project} for the rows whose prompt exists."""
    given = {row["prompt"].pk for row in rows if isinstance(row.get("prompt"), Prompt)}
    digests = {row["prompt_digest"] for row in rows if isinstance(row.get("prompt_digest"), str)}
    found = Prompt.objects.filter(prompt_set__project=project)
    by_id, by_digest = {}, {}
    for chunk in chunks(sorted(given)):
        by_id.update({prompt.pk: prompt for prompt in found.filter(pk__in=chunk)})
    for chunk in chunks(sorted(digests)):
        # Oldest set first: the newest one that holds the prompt is the last to write its place.
        for prompt in found.filter(digest__in=chunk, prompt_set__active=True).order_by("prompt_set__created_at"):
            by_digest[prompt.digest] = prompt
    return {
        index: by_id.get(row["prompt"].pk) if isinstance(row.get("prompt"), Prompt) else by_digest.get(digest_of(row))
        for index, row in enumerate(rows)
    }


def digest_of(row):
    return row["prompt_digest"] if isinstance(row.get("prompt_digest"), str) else None


def chunks(values):
    return (values[start : start + BATCH] for start in range(0, len(values), BATCH))


def build_completion(number, row, prompts):
    prompt = prompts[number - 1]
    if prompt is None:
        raise CompletionError(number, "prompt_digest", _("names no prompt of this project."))
    try:
        messages.check_answer(row.get("message"))
    except messages.MessageError as error:
        raise CompletionError(number, error.field, error.message) from None
    generator = check_generator(number, row.get("generator"))
    digest = generator.get("digest") or ""
    return Completion(
        prompt=prompt,
        message=row["message"],
        text_sha256=messages.text_sha256(row["message"]),
        finish_reason=check_word(number, "finish_reason", row.get("finish_reason", "stop"), 32),
        prompt_tokens=check_count(number, "prompt_tokens", row.get("prompt_tokens")),
        completion_tokens=check_count(number, "completion_tokens", row.get("completion_tokens")),
        token_ids=check_token_ids(number, row.get("token_ids")),
        generator=generator,
        policy_digest=check_word(number, "generator.digest", digest, 64, empty=True),
        external_id=check_word(number, "external_id", row.get("external_id", ""), 200, empty=True),
    )


def check_generator(number, generator):
    if not isinstance(generator, dict) or generator.get("kind") not in GENERATOR_KINDS:
        raise CompletionError(
            number,
            "generator.kind",
            _("must be one of: %(kinds)s.") % {"kinds": ", ".join(GENERATOR_KINDS)},
        )
    try:
        text = messages.canonical_json(generator)
        text.encode("utf-8")
    except (ValueError, TypeError, RecursionError):
        raise CompletionError(number, "generator", _("must be plain JSON.")) from None
    if len(text) > 100_000 or "\\u0000" in text:
        raise CompletionError(number, "generator", _("is too long or holds characters that cannot be stored."))
    return generator


def check_word(number, field, value, max_length, *, empty=False):
    fits = isinstance(value, str) and len(value) <= max_length and (not value or value.isprintable())
    if not fits or not (value or empty):
        raise CompletionError(
            number, field, _("must be a text of at most %(limit)d characters.") % {"limit": max_length}
        )
    return value


def check_count(number, field, value):
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TOKENS):
        raise CompletionError(number, field, _("must be a whole number from 0 to %(limit)d.") % {"limit": MAX_TOKENS})
    return value


def check_token_ids(number, value):
    if value is None:
        return None
    whole = isinstance(value, list) and len(value) <= messages.MAX_TEXT
    if not whole or not all(type(item) is int and 0 <= item <= MAX_TOKENS for item in value):
        raise CompletionError(number, "token_ids", _("must be a list of token ids."))
    return value
