"""One writer for each fact: views, API, tasks and commands call the noun modules and write no table themselves."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CALLERS = {"views", "api", "tasks", "admin", "serializers", "forms", "page"}  # also as in manage_views.py
WRITES_ANYWHERE = {"save", "bulk_create", "bulk_update", "get_or_create", "update_or_create"}
WRITES = WRITES_ANYWHERE | {"create", "update", "delete"}


def caller_files():
    for source in ("annotation", "training", "platform/plumbline"):
        for path in sorted((ROOT / source).rglob("*.py")):
            relative = path.relative_to(ROOT)
            if "migrations" in relative.parts or "engine" in relative.parts:
                continue
            if (
                path.stem.rpartition("_")[2] in CALLERS
                or "commands" in relative.parts
                or "views" in relative.parts[:-1]
            ):
                yield relative


def find_writes(tree):
    """Line numbers of table writes. `.update()` counts on what reads like a queryset: a dict's has no such chain."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES):
            continue
        if is_form(node.func.value):
            continue  # its save() is our own method, which this test reads as well; model forms are forbidden below
        if node.func.attr in WRITES_ANYWHERE or touches_queryset(node.func.value):
            yield node.lineno


def is_form(node):
    return isinstance(node, ast.Name) and node.id.endswith("form")


def touches_queryset(node):
    """Whether the expression goes through `.objects` or a queryset method, such as Task.objects.filter(…)."""
    while True:
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute):
            if node.attr in ("objects", "filter", "exclude", "all", "select_for_update"):
                return True
            node = node.value
        else:
            return False


@pytest.mark.parametrize("path", list(caller_files()), ids=str)
def test_it_leaves_writing_to_the_noun_modules(path):
    lines = list(find_writes(ast.parse((ROOT / path).read_text())))
    assert lines == [], f"{path} writes to a table on lines {lines}; move that into a noun module"


@pytest.mark.parametrize("path", [path for path in caller_files() if path.name == "forms.py"], ids=str)
def test_it_has_no_form_that_writes_by_itself(path):
    assert "ModelForm" not in (ROOT / path).read_text()


@pytest.mark.parametrize(
    ("source", "writes"),
    [
        ("task.save()", True),
        ("Task.objects.create(a=1)", True),
        ("Task.objects.filter(id=1).update(a=2)", True),
        ("project.tasks.all().delete()", True),
        ("form.save(project)", False),
        ("context.update(a=2)", False),
        ("submit_ranking(a, order=order)", False),
    ],
)
def test_it_tells_a_write_from_other_calls(source, writes):
    assert bool(list(find_writes(ast.parse(source)))) is writes
