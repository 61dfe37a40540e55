"""The table of PPO's details in docs/engine.md: every row is there, and what it says of tests is so."""

import re
from pathlib import Path

from tests.engine.test_mutations import MUTATIONS

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "engine.md"
ROWS = [*map(str, range(1, 19)), "18a", *map(str, range(19, 27)), "29", "30"]


def rows():
    """{row: ([tests], whether its bug is put back)}."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## PPO's details")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (\d+a?) \|.*\| (`test_.+`) \| (yes|) ?\|$", section, flags=re.MULTILINE)
    return {row: (re.findall(r"`(test_\w+)`", tests), put_back == "yes") for row, tests, put_back in lines}


def test_it_names_tests_that_are_there_for_every_row():
    assert list(rows()) == ROWS
    there = {name for path in HERE.glob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    for row, (tests, _) in rows().items():
        assert tests and set(tests) <= there, (row, set(tests) - there)


def test_it_says_where_a_published_bug_is_put_back():
    for row, (tests, put_back) in rows().items():
        watching = {case.test.__name__ for case in MUTATIONS if case.row == row}
        assert put_back == bool(watching), row
        assert watching <= set(tests), row
