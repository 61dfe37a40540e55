import pytest
from django.core.exceptions import ValidationError

from annotation import completions, demonstrations, prompts
from annotation.models import Completion, Membership
from tests.annotation.conftest import policy

pytestmark = pytest.mark.django_db


def row(prompt, /, **fields):
    return {
        "prompt": prompt,
        "message": {"role": "assistant", "content": "Once."},
        "generator": policy(),
    } | fields


def test_it_adds_completions_in_order(project, prompt):
    rows = [row(prompt, message={"role": "assistant", "content": text}, token_ids=[1, 2]) for text in "abc"]
    made = completions.add_completions(project, rows=rows)
    assert [completion.message["content"] for completion in made] == ["a", "b", "c"]
    stored = Completion.objects.get(pk=made[0].pk)
    assert (stored.policy_digest, stored.token_ids, stored.finish_reason) == ("a" * 64, [1, 2], "stop")


def test_it_finds_the_prompt_by_its_digest_in_the_newest_set(project, make_prompts, admin):
    old = make_prompts("Tell.")[0]
    new = make_prompts("Tell.", "More.", name="again")[0]
    by_digest = {"prompt": None, "prompt_digest": old.digest}
    assert completions.add_completions(project, rows=[row(None, **by_digest)])[0].prompt == new
    prompts.set_active(new.prompt_set, active=False, actor=admin)
    assert completions.add_completions(project, rows=[row(None, **by_digest)])[0].prompt == old


def test_it_takes_parts_and_text_for_the_same_card(project, prompt):
    parts = [{"type": "text", "text": "On"}, {"type": "text", "text": "ce."}]
    one, other = completions.add_completions(
        project, rows=[row(prompt), row(prompt, message={"role": "assistant", "content": parts})]
    )
    assert one.text_sha256 == other.text_sha256


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt_digest"),
        ({"prompt": None, "prompt_digest": "f" * 64}, "prompt_digest"),
        ({"prompt": None, "prompt_digest": ["f"]}, "prompt_digest"),
        ({"message": None}, "message"),
        ({"message": {"role": "user", "content": "a"}}, "message.role"),
        ({"message": {"role": "assistant", "content": 7}}, "message.content"),
        ({"generator": None}, "generator.kind"),
        ({"generator": {"kind": "magic"}}, "generator.kind"),
        ({"generator": {"kind": "import", "digest": 7}}, "generator.digest"),
        ({"generator": {"kind": "import", "model": "\ud800"}}, "generator"),
        ({"generator": {"kind": "import", "model": "a\x00"}}, "generator"),
        ({"generator": {"kind": "import", "seed": float("nan")}}, "generator"),
        ({"finish_reason": ""}, "finish_reason"),
        ({"finish_reason": "x" * 33}, "finish_reason"),
        ({"prompt_tokens": -1}, "prompt_tokens"),
        ({"completion_tokens": 2**63}, "completion_tokens"),
        ({"completion_tokens": 1.5}, "completion_tokens"),
        ({"token_ids": [1, "2"]}, "token_ids"),
        ({"token_ids": [True]}, "token_ids"),
        ({"external_id": "a\nb"}, "external_id"),
    ],
)
def test_it_names_the_row_and_field_and_adds_nothing(project, prompt, fields, field):
    with pytest.raises(completions.CompletionError) as caught:
        completions.add_completions(project, rows=[row(prompt), row(prompt, **fields)])
    assert (caught.value.row, caught.value.field) == (2, field)
    assert not Completion.objects.exists()


def test_it_adds_a_demonstration(project, prompt, annotator):
    message = {"role": "assistant", "content": "Once upon a time."}
    made = demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=message)
    assert (made.source, made.message) == ("annotator", message)
    again = demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=message)
    assert again == made  # sent twice, kept once
    Membership.objects.filter(user=annotator).update(simulated=True)
    other = {"role": "assistant", "content": "Another time."}
    simulated = demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=other)
    assert simulated.source == "simulated"
    assert demonstrations.withdraw_demonstration(made, actor=annotator)
    assert not demonstrations.withdraw_demonstration(made, actor=annotator)


@pytest.mark.parametrize("message", [None, {"role": "user", "content": "a"}, {"role": "assistant", "content": " "}])
def test_it_refuses_a_demonstration_that_is_none(project, prompt, annotator, message):
    with pytest.raises(ValidationError):
        demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=message)


def test_it_keeps_a_demonstration_sent_twice_as_one(project, prompt, annotator, second_annotator):
    message = {"role": "assistant", "content": "Once upon a time."}
    first, again, other = (
        demonstrations.add_demonstration(project, prompt=prompt, author=author, message=message)
        for author in (annotator, annotator, second_annotator)
    )
    assert first == again != other
