"""The page of known answers: a file in, whole or not at all, and what there is."""

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.urls import reverse

from annotation import assignment
from annotation.models import Completion, KnownAnswer, PromptSet, Purpose, Task

pytestmark = pytest.mark.django_db

URL = reverse("annotation:known_answers", args=["stories"])


def row(question="Tell a story.", texts=("Once.", "Twice."), ranking=(("b",), ("a",)), **fields):
    listed = zip("abcdefghij", texts, strict=False)
    return {
        "prompt": [{"role": "user", "content": question}],
        "completions": [{"id": key, "messages": [{"role": "assistant", "content": text}]} for key, text in listed],
        "ranking": [list(group) for group in ranking],
        **fields,
    }


def as_file(*rows, name="known.jsonl"):
    lines = (line if isinstance(line, str) else json.dumps(line) for line in rows)
    return SimpleUploadedFile(name, "\n".join(lines).encode())


@pytest.fixture
def client(client_for, reviewer):
    return client_for(reviewer)


def test_a_reviewer_adds_hidden_checks_by_a_file(client, annotator, project, make_tasks):
    rows = (
        row(rationale="Kinder."),
        row("Sing.", texts=("La.", "La.")),
        row("Rhyme.", ranking=[["a"], ["b"]]),
    )
    page = client.post(URL, {"file": as_file(*rows), "purpose": "gold"}, follow=True)
    text = page.content.decode()
    assert "2 hidden checks were added. 1 row was left out, its answers being all alike." in text
    assert "2 tasks" in text and "known order" in text and "2 › 1" in text and "Kinder." in text
    assert {answer.created_by.username for answer in KnownAnswer.objects.all()} == {"reviewer"}
    again = client.post(URL, {"file": as_file(*rows), "purpose": "gold"}, follow=True)
    assert "This very file is already here; nothing was added." in again.content.decode()
    assert Task.objects.filter(purpose=Purpose.GOLD).count() == 2


def test_the_same_file_makes_practice_as_well(client, client_for, annotator, project):
    for purpose in ("gold", "practice"):
        client.post(URL, {"file": as_file(row(rationale="A *kind* ending.")), "purpose": purpose})
    assert sorted(Task.objects.values_list("purpose", flat=True)) == ["gold", "practice"]
    task = Task.objects.get(purpose=Purpose.PRACTICE)
    first, second = (str(entry.completion_id) for entry in task.entries.order_by("position"))
    practice = reverse("annotation:practice", args=["stories"])
    answer = client_for(annotator).post(practice, {f"place-{first}": "2", f"place-{second}": "1"})
    assert "You agree on every pair." in answer.content.decode()
    assert "A <em>kind</em> ending." in answer.content.decode()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("{", "row 3: is not valid JSON at character 2"),
        ("[1]", "row 3: must be an object"),
        (row(ranking=[["a"], ["x"]]), "row 3, ranking: x is not an answer of this task."),
        (row(ranking=[["a", "b"]]), "row 3, ranking: must put at least one answer before another."),
        (row(ranking=[]), "row 3, ranking: must put at least one answer before another."),
        (row() | {"ranking": "a > b"}, "row 3, ranking: must be a list of tie groups"),
        (row() | {"completions": []}, "row 3, completions: must be a list of"),
        (row() | {"completions": [{"id": ["a"], "messages": [{}]}]}, "row 3, completions: must be a list of"),
        (row() | {"completions": row()["completions"][:1] * 2}, "row 3, completions: has one id twice."),
        (row(texts=("Once.", 5)), "row 3, completions: must be a text or a list of parts."),
        (row(texts=[str(number) for number in range(10)]), "row 3, completions: A task has from 2 to 9 answers"),
        (row(rationale=5), "row 3, rationale: must be a text."),
        (row() | {"prompt": "Tell."}, "row 3, prompt: must be a list of at least one message."),
    ],
)
def test_a_wrong_row_adds_nothing_and_is_named(client, wrong, sentence):
    # The second line is blank: rows are counted as an editor counts lines.
    page = client.post(URL, {"file": as_file(row(), "", wrong), "purpose": "gold"})
    assert page.status_code == 400
    (error,) = page.context["form"].errors["file"]
    assert error.startswith(f"Nothing was added: {sentence}") and "\n" not in error
    for model in (Task, KnownAnswer, PromptSet, Completion):
        assert not model.objects.exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "file: is empty"), (b"\x1f\x8b..", "file: is a gzip file"), (b"\xff{", "row 1: byte 1 is not valid UTF-8")],
)
def test_a_file_that_is_none_is_refused(client, content, sentence):
    page = client.post(URL, {"file": SimpleUploadedFile("known.jsonl", content), "purpose": "gold"})
    assert f"Nothing was added: {sentence}" in page.content.decode()


def test_a_file_that_is_too_large_is_refused(client, monkeypatch):
    monkeypatch.setattr("annotation.known_answers.MAX_FILE_BYTES", 2**20)
    page = client.post(URL, {"file": as_file(row("a" * 2**20)), "purpose": "gold"})
    assert "Nothing was added: file: is larger than 1 MB." in page.content.decode()


def test_a_task_taken_out_is_not_asked(client, project, annotator, make_tasks, monkeypatch):
    make_tasks(1)
    monkeypatch.setattr(assignment.random_source, "random", lambda: 0.0)  # a check whenever there is one
    client.post(URL, {"file": as_file(row()), "purpose": "gold"})
    task = Task.objects.get(purpose=Purpose.GOLD)
    client.post(reverse("annotation:take_out", args=["stories", task.pk]))
    assert "No known answers yet" in client.get(URL).content.decode()
    assert assignment.next_assignment(project, annotator=annotator).task.purpose == Purpose.TRAIN


def test_it_is_for_reviewers(client_for, annotator, outsider, project):
    for person, status in ((annotator, 403), (outsider, 404)):
        client = client_for(person)
        assert client.get(URL).status_code == status
        assert client.post(URL, {"file": as_file(row()), "purpose": "gold"}).status_code == status
    assert not Task.objects.exists()


def test_the_command_says_the_same(project, tmp_path, capsys):
    path = tmp_path / "known.jsonl"
    path.write_text(json.dumps(row()))
    call_command("import_checks", "stories", str(path), "--purpose", "practice")
    assert capsys.readouterr().out == "1 practice task was added.\n"
    path.write_text(json.dumps(row() | {"ranking": None}))
    with pytest.raises(CommandError, match="row 1, ranking: must be a list of tie groups"):
        call_command("import_checks", "stories", str(path))


def test_a_corrected_file_corrects_what_is_there(client, project):
    client.post(URL, {"file": as_file(row(), row("Sing.")), "purpose": "gold"})
    before = dict(KnownAnswer.objects.values_list("task__prompt__messages__0__content", "order"))
    corrected = as_file(row(texts=("Twice.", "Once."), ranking=[["b"], ["a"]]), row("Sing."), row("Rhyme."))
    page = client.post(URL, {"file": corrected, "purpose": "gold"}, follow=True).content.decode()
    assert "1 hidden check was added. 1 that was here has its new known answer." in page
    after = dict(KnownAnswer.objects.values_list("task__prompt__messages__0__content", "order"))
    assert after.keys() == {"Tell a story.", "Sing.", "Rhyme."}
    assert after["Tell a story."] == before["Tell a story."][::-1]
    assert after["Sing."] == before["Sing."]
