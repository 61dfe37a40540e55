import io
import json

import pytest
from django.core.management import CommandError, call_command

from annotation import assignment, rankings
from annotation.models import PromptSet, Snapshot

pytestmark = pytest.mark.django_db


def run(*arguments):
    output = io.StringIO()
    call_command(*arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def prompt_file(tmp_path):
    path = tmp_path / "kind.jsonl"
    path.write_text('{"prompt": "One.", "pool": "reward"}\n{"prompt": "One."}\n')
    return path


def test_it_imports_prompts(project, prompt_file):
    said = run("import_prompts", "stories", str(prompt_file))
    assert said == "Imported 1 prompts as kind v1 (reward 1); 1 duplicates left out.\n"
    assert "already there as kind v1" in run("import_prompts", "stories", str(prompt_file), "--name", "again")


@pytest.mark.parametrize(
    ("content", "sentence"), [("", "file: is empty"), ('{"prompt": 1}', "row 1, prompt: must be a text")]
)
def test_it_says_what_is_wrong_with_a_file(project, tmp_path, content, sentence):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(CommandError, match=sentence):
        run("import_prompts", "stories", str(path))
    assert not PromptSet.objects.exists()


@pytest.mark.parametrize("command", [("import_prompts", "no", "x"), ("export", "no", "native"), ("snapshot", "no")])
def test_it_names_the_projects_that_there_are(project, tmp_path, command, prompt_file):
    with pytest.raises(CommandError, match=r"There is no project 'no'\. Projects: stories\."):
        run(*command)


def test_it_says_when_a_file_cannot_be_read(project, tmp_path):
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(CommandError, match="Cannot read"):
            run("import_prompts", "stories", str(path))


def test_it_exports_and_freezes(project, annotator, task, tmp_path, settings):
    settings.PLUMBLINE_DATA_DIR = tmp_path / "data"
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[completion_id] for completion_id in lease.presented_order]
    ranking, _ = rankings.submit_ranking(lease, annotator=annotator, client_id="c", order=order)
    assert json.loads(run("export", "stories", "native"))["id"] == str(ranking.pk)
    path = tmp_path / "out.jsonl"
    run("export", "stories", "trl", "--output", str(path))
    assert len(path.read_text().splitlines()) == 6
    with pytest.raises(CommandError, match="File exists"):
        run("export", "stories", "trl", "--output", str(path))
    assert run("export", "stories", "native", "--simulated", "only") == ""
    said = run("snapshot", "stories")
    assert "Snapshot 1 with 1 rankings in " in said
    assert Snapshot.objects.get().uri in said
