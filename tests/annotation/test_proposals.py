"""Prompts that people propose, and the prompts for which they write answers."""

import pytest
from django.core.exceptions import ValidationError

from annotation import demonstrations, proposals
from annotation.models import AuditEvent, Demonstration, Prompt, PromptProposal

pytestmark = pytest.mark.django_db


@pytest.fixture
def propose(project, annotator):
    return lambda text: proposals.propose_prompt(project, author=annotator, text=text)


def test_an_accepted_proposal_becomes_a_prompt(project, propose, admin):
    rows = [propose("Tell a story."), propose("Sing a song.\r\nLoudly."), propose("Be rude.")]
    ids = [row.pk for row in rows]
    assert proposals.decide_proposals(project, ids[:2], accept=True, actor=admin, pool="reward") == 2
    assert proposals.decide_proposals(project, ids, accept=False, actor=admin) == 1
    texts = {prompt.messages[0]["content"]: prompt.pool for prompt in Prompt.objects.all()}
    assert texts == {"Tell a story.": "reward", "Sing a song.\nLoudly.": "reward"}
    assert sorted(PromptProposal.objects.values_list("state", flat=True)) == ["accepted", "accepted", "declined"]
    later = propose("Count to ten.")
    assert proposals.decide_proposals(project, [later.pk], accept=True, actor=admin) == 1
    versions = project.prompt_sets.filter(name=proposals.SET_NAME).values_list("version", "active")
    assert sorted(versions) == [(1, True), (2, True)]
    assert AuditEvent.objects.filter(action__startswith="proposals.").count() == 3


def test_the_same_proposal_twice_is_one(propose):
    assert propose("Tell a story.") == propose("  Tell a story. ")
    assert PromptProposal.objects.count() == 1


@pytest.mark.parametrize("text", ["", "  ", "a\x00b", "\ud800", "x" * 20_001, None, ["a"]])
def test_it_refuses_what_is_no_prompt(propose, text):
    with pytest.raises(ValidationError):
        propose(text)
    assert not PromptProposal.objects.exists()


def test_it_takes_only_so_many_at_a_time(propose, monkeypatch):
    monkeypatch.setattr(proposals, "MAX_WAITING", 2)
    propose("One.")
    propose("Two.")
    with pytest.raises(ValidationError, match="still wait"):
        propose("Three.")


def test_it_offers_what_nobody_answered_first_and_nothing_twice(project, make_prompts, annotator, second_annotator):
    make_prompts("One?", "Two?", "Three?", pool="sft")
    make_prompts("Not for this.", pool="reward", name="others")

    def write(author):
        prompt = demonstrations.next_prompt(project, author=author)
        message = {"role": "assistant", "content": "Yes."}
        demonstrations.add_demonstration(project, prompt=prompt, author=author, message=message)
        return prompt

    first, second, third = write(annotator), write(second_annotator), write(annotator)
    assert len({first, second, third}) == 3
    assert write(annotator) == second
    assert demonstrations.next_prompt(project, author=annotator) is None
    assert Demonstration.objects.count() == 4


def test_another_prompt_can_be_had_until_there_is_no_other(project, make_prompts, annotator):
    make_prompts("One?", "Two?", "Three?", pool="sft")
    seen, after = set(), ""
    for _turn in range(3):
        prompt = demonstrations.next_prompt(project, author=annotator, after=after)
        seen.add(prompt)
        after = prompt.digest
    assert len(seen) == 3
