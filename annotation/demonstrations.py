"""Demonstrations, the completions that people write: every write to their table."""

import hashlib

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import messages
from annotation.audit import record_event
from annotation.models import Demonstration, Membership, Pool, Prompt, Source


@transaction.atomic
def add_demonstration(project, *, prompt, author, message, ranking=None, source=None):
    """message: an assistant message. The membership says whether it is simulated. Raises ValidationError.

    The same text by the same person is one row, whether sent again because an answer was lost on the way or because the
    ranking that it came with was changed.
    """
    if prompt.prompt_set.project_id != project.pk:
        raise ValidationError({"prompt": _("belongs to another project.")})
    if ranking is not None and ranking.task.prompt_id != prompt.pk:
        raise ValidationError({"ranking": _("judges another prompt.")})
    try:
        messages.check_answer(message)
    except messages.MessageError as error:
        raise ValidationError({error.field: error.message}) from None
    if not messages.message_text(message).strip():
        raise ValidationError({"message": _("is empty.")})
    # One at a time for a prompt: two tabs that send the same waiting text together must not both find nothing.
    list(Prompt.objects.select_for_update(no_key=True).filter(pk=prompt.pk).values_list("pk", flat=True))
    text = {"project": project, "prompt": prompt, "author": author, "message": message}
    sent_before = Demonstration.objects.filter(**text, withdrawn_at=None).first()
    return sent_before or Demonstration.objects.create(
        **text, ranking=ranking, source=author_source(project, author, source)
    )


def next_prompt(project, *, author, after=""):
    """A prompt for which this person has not written an answer, or None; those that nobody answered come first.

    Everybody begins somewhere else, so that two people rarely write for the same prompt at once. after: the digest of
    a prompt that they would rather leave out.
    """
    if project.archived_at:
        return None
    asked = Prompt.objects.filter(prompt_set__project=project, prompt_set__active=True, pool=Pool.SFT)
    written = Demonstration.objects.filter(prompt=OuterRef("pk"), withdrawn_at=None)
    own = Demonstration.objects.filter(project=project, author=author).count()
    start = after or hashlib.sha256(f"{author.pk}:{own}".encode()).hexdigest()
    for prompts in (asked.filter(~Exists(written)), asked.filter(~Exists(written.filter(author=author)))):
        in_order = prompts.order_by("digest")
        found = in_order.filter(digest__gt=start).first() or in_order.exclude(digest=after).first()
        if found is not None:
            return found
    return None


def author_source(project, author, source):
    """Where a judgment or text comes from: an account that is marked as simulated stays so, whatever is claimed."""
    if author is not None and Membership.objects.filter(project=project, user=author, simulated=True).exists():
        return Source.SIMULATED
    return source or Source.ANNOTATOR


@transaction.atomic
def withdraw_demonstration(demonstration, *, actor):
    """Whether it was in use until now. It stays in the database and leaves the next snapshot."""
    withdrawn = Demonstration.objects.filter(pk=demonstration.pk, withdrawn_at=None).update(withdrawn_at=timezone.now())
    if withdrawn:
        record_event(demonstration.project, actor=actor, action="demonstration.withdrawn", subject=demonstration.pk)
    return withdrawn == 1
