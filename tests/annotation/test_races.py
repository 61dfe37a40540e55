import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("races.py")


def run_races(data_dir, database_url=None):
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    environment |= {"PLUMBLINE_DATA_DIR": str(data_dir), "PLUMBLINE_ENV": "development"}
    if database_url:
        environment["DATABASE_URL"] = database_url
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def races(request, tmp_path_factory):
    """What the races of races.py came to, on each database."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    results = run_races(tmp_path_factory.mktemp("races"), url)
    assert results["vendor"] == request.param
    return results


def test_it_gives_each_slot_to_one_annotator(races):
    tasks = races["tasks"]
    assert tasks["errors"] == []
    assert tasks["rankings"] == tasks["wanted"]
    assert tasks["tasks_with_overlap"] == tasks["tasks"]
    assert tasks["slots_not_done"] == 0


def test_it_gives_one_person_in_six_tabs_one_task_and_one_ahead(races):
    one = races["one_person"]
    assert one["errors"] == []
    assert (one["leases"], one["leases_ahead"], one["held"]) == (1, 1, 2)


def test_it_stores_a_ranking_once_that_arrives_six_times_at_once(races):
    assert (races["one_person"]["created"], races["one_person"]["rows"]) == (1, 1)


def test_it_loses_and_doubles_nothing_when_leases_end_meanwhile(races):
    clock = races["clock"]
    assert clock["errors"] == []
    assert clock["late_kept"] == 3
    assert clock["counted_twice"] == 0
    assert clock["surplus_told_apart"]


def test_it_imports_a_file_once_that_arrives_four_times_at_once(races):
    assert races["imports"] == {"errors": [], "imports": 1, "sets": 1, "prompts": 700}
