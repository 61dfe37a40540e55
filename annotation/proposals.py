"""Prompts that people propose, and what admins decide about them: every write to their table."""

import io
import json

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from annotation import messages
from annotation.audit import record_event
from annotation.models import PromptProposal, ProposalState
from annotation.prompts import import_prompts

MAX_PROPOSAL = 20_000  # characters
MAX_WAITING = 200  # of one person: an admin reads them all
SET_NAME = "Proposed by people"  # of the prompt set; each decision makes its next version


@transaction.atomic
def propose_prompt(project, *, author, text):
    """The proposal. The same text by the same person is one row. Raises ValidationError."""
    text = text.replace("\r\n", "\n").strip() if isinstance(text, str) else text
    asked = [{"role": "user", "content": text}]
    try:
        messages.check_text(text, field="text", max_length=MAX_PROPOSAL)
        messages.check_prompt(asked)
    except messages.MessageError as error:
        raise ValidationError({"text": error.message}) from None
    before = PromptProposal.objects.filter(project=project, author=author)
    known = before.filter(messages=asked).first()
    if known is not None:
        return known
    if before.filter(state=ProposalState.WAITING).count() >= MAX_WAITING:
        raise ValidationError(
            {
                "text": _("%(count)d of your prompts still wait for a decision. Propose more after it.")
                % {"count": MAX_WAITING}
            }
        )
    return PromptProposal.objects.create(project=project, author=author, messages=asked)


@transaction.atomic
def decide_proposals(project, ids, *, accept, actor, pool=None):
    """How many of these proposals, still waiting, are now decided. Accepted ones become a prompt set's next version.

    pool: what the prompts are for; None shares them out. Raises PromptError.
    """
    waiting = project.prompt_proposals.select_for_update().filter(pk__in=ids, state=ProposalState.WAITING)
    rows = list(waiting.order_by("created_at", "pk"))
    if rows and accept:
        lines = [json.dumps({"messages": row.messages}) for row in rows]
        file = io.BytesIO("\n".join(lines).encode())
        import_prompts(project, name=SET_NAME, file=file, created_by=actor, pool=pool)
    state = ProposalState.ACCEPTED if accept else ProposalState.DECLINED
    decided = {"state": state, "decided_by": actor, "decided_at": timezone.now()}
    PromptProposal.objects.filter(pk__in=[row.pk for row in rows]).update(**decided)
    if rows:
        record_event(project, actor=actor, action=f"proposals.{state.value}", detail={"count": len(rows)})
    return len(rows)
