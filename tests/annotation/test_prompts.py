import io
import json

import pytest

from annotation import messages, prompts
from annotation.models import AuditEvent, Project, Prompt, PromptSet

pytestmark = pytest.mark.django_db


def imported(project, content, **fields):
    file = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return prompts.import_prompts(project, **({"name": "set", "file": file} | fields))


def jsonl(*rows):
    return "\n".join(json.dumps(row) for row in rows)


def test_it_reads_prompts_and_conversations(project):
    conversation = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    ]
    report = imported(project, jsonl({"prompt": "One."}, {"messages": conversation, "group": "g", "pool": "eval"}))
    one, two = report.prompt_set.prompts.order_by("position")
    assert one.messages == [{"role": "user", "content": "One."}]
    assert (two.messages, two.pool, two.group) == (conversation, "eval", "g")
    assert (one.position, two.position) == (1, 2)
    assert one.group == one.digest


def test_it_names_a_prompt_by_the_sha256_of_its_canonical_json(project):
    imported(project, '{"prompt": "é"}')
    # printf '[{"content":"é","role":"user"}]' | sha256sum
    assert Prompt.objects.get().digest == "5b982d5fb9bbb395dedf893373894ed3f82f40d0b11980e29df209a2d4e76bb4"
    assert messages.canonical_json(Prompt.objects.get().messages) == '[{"content":"é","role":"user"}]'


def test_it_reads_csv_with_quotes_and_lines_in_cells(project):
    content = 'Prompt,pool,note\r\n"Say ""hi""\nnow, please",sft,x\r\n=1+1,,y\r\n'
    report = imported(project, b"\xef\xbb\xbf" + content.encode())
    first, second = report.prompt_set.prompts.order_by("position")
    assert first.messages[0]["content"] == 'Say "hi"\nnow, please'
    assert first.pool == "sft"
    assert second.messages[0]["content"] == "=1+1"
    assert report.prompt_set.counts["ignored_columns"] == ["note"]


def test_it_keeps_text_byte_for_byte(project):
    text = "  <script>alert(1)</script> \u202e ​ {{x}} <|im_start|> e\u0301 \r\n"
    imported(project, jsonl({"prompt": text}))
    assert Prompt.objects.get().messages[0]["content"] == text


def test_it_imports_the_same_file_once(project):
    first = imported(project, '{"prompt": "One."}')
    again = imported(project, '{"prompt": "One."}', name="other", file_name="other.jsonl")
    assert again.already_imported
    assert again.prompt_set == first.prompt_set
    assert (again.prompts, PromptSet.objects.count(), Prompt.objects.count()) == (1, 1, 1)


def test_it_makes_the_same_name_the_next_version(project):
    imported(project, '{"prompt": "One."}')
    assert imported(project, '{"prompt": "Two."}').prompt_set.version == 2


def test_it_drops_and_counts_prompts_that_stand_in_a_file_twice(project):
    report = imported(project, jsonl({"prompt": "One."}, {"prompt": "One.", "pool": "eval"}, {"prompt": "Two."}))
    assert report.dropped == {"duplicate": 1}
    assert report.prompts == 2
    assert AuditEvent.objects.get().detail["prompts"] == 2


def test_it_keeps_a_prompt_in_its_first_pool(project):
    imported(project, jsonl({"prompt": "One.", "pool": "sft", "group": "a"}))
    report = imported(
        project,
        jsonl({"prompt": "One.", "pool": "eval", "group": "b"}, {"prompt": "Two.", "group": "a", "pool": "ppo"}),
    )
    assert set(report.prompt_set.prompts.values_list("pool", "group")) == {("sft", "a")}
    assert report.prompt_set.counts["kept_in_first_pool"] == 2


def test_it_puts_a_group_into_the_pool_that_any_of_its_rows_names(project):
    imported(project, jsonl({"prompt": "One.", "group": "g"}, {"prompt": "Two.", "group": "g", "pool": "eval"}))
    assert set(Prompt.objects.values_list("pool", flat=True)) == {"eval"}


def test_it_refuses_a_group_in_two_pools(project):
    with pytest.raises(prompts.PromptError, match="row 2, pool: puts the group “g” into sft"):
        imported(
            project,
            jsonl({"prompt": "One.", "group": "g", "pool": "eval"}, {"prompt": "Two.", "group": "g", "pool": "sft"}),
        )
    assert not PromptSet.objects.exists()


def test_it_shares_groups_out_over_the_pools_the_same_way_everywhere(project):
    drawn = [prompts.pool_of_group(f"group {number}") for number in range(4000)]
    shares = {pool: drawn.count(pool) / 40 for pool in set(drawn)}
    # 4,000 draws: a standard deviation of at most 0.8 percent; four of them are allowed.
    for pool, percent in (("reward", 50), ("ppo", 20), ("sft", 15), ("eval", 15)):
        assert abs(shares[pool] - percent) < 3.2
    assert [prompts.pool_of_group(group) for group in ("a", "b", "g")] == ["reward", "ppo", "sft"]


def test_it_uses_the_pool_asked_for_where_rows_name_none(project):
    imported(project, jsonl({"prompt": "One."}, {"prompt": "Two.", "pool": "sft"}), pool="eval")
    assert list(Prompt.objects.order_by("position").values_list("pool", flat=True)) == ["eval", "sft"]


def test_it_lets_another_project_have_the_same_file(project):
    other = Project.objects.create(slug="other", name="Other")
    imported(project, '{"prompt": "One."}')
    assert not imported(other, '{"prompt": "One."}').already_imported


def test_it_imports_many_prompts_with_few_queries(project, django_assert_max_num_queries):
    content = jsonl(*({"prompt": f"Prompt {number}."} for number in range(1200)))
    # 3 batches of (digests held, groups held, insert), and a dozen around them.
    with django_assert_max_num_queries(40):
        assert imported(project, content).prompts == 1200


def test_it_retires_a_set(project, admin):
    prompt_set = imported(project, '{"prompt": "One."}').prompt_set
    assert prompts.set_active(prompt_set, active=False, actor=admin)
    assert not prompts.set_active(prompt_set, active=False, actor=admin)


def test_names_of_columns_that_it_ignores_hold_nothing_that_a_database_refuses(project):
    line = json.dumps({"prompt": "Hi.", "a\x00b": 1})
    counts = prompts.import_prompts(project, name="x", file=io.BytesIO(line.encode())).prompt_set.counts
    assert counts["ignored_columns"] == ["ab"]
