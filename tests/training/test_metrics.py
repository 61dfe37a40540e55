"""Reading what runs have told."""

import pytest

from training import metrics, runs

pytestmark = pytest.mark.django_db


@pytest.fixture
def logged(make_run, data_dir):
    """A run of two attempts with a log each."""
    run = make_run()
    for number, text in enumerate(["first attempt\n", "second attempt, its last words\n"], start=1):
        directory = f"runs/{run.id}/attempt-{number}"
        (data_dir / directory).mkdir(parents=True)
        (data_dir / directory / "engine.log").write_text(text)
        fence = runs.claim(run.id, owner="a")
        run.refresh_from_db()
        runs.start_attempt(run, fence=fence, directory=directory)
        runs.interrupt(run.id, fence=fence, message="")
        runs.requeue_interrupted(run)
    return run


def test_it_gives_the_logs_of_all_attempts_in_their_order(logged):
    assert metrics.log(logged) == "--- 1 ---\nfirst attempt\n\n--- 2 ---\nsecond attempt, its last words\n"


def test_it_reads_no_more_of_a_log_than_it_shows(logged, data_dir):
    with open(data_dir / f"runs/{logged.id}/attempt-1/engine.log", "r+b") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which takes no room and could not be read
    assert metrics.log(logged, most_bytes=11) == "--- 2 ---\nlast words\n"
    assert metrics.log(logged, most_bytes=33).startswith("--- 1 ---\n\x00\x00")


def test_it_leaves_out_attempts_that_wrote_nothing(logged, data_dir):
    (data_dir / f"runs/{logged.id}/attempt-1/engine.log").write_text("")
    assert metrics.log(logged) == "--- 2 ---\nsecond attempt, its last words\n"
    (data_dir / f"runs/{logged.id}/attempt-2/engine.log").write_text("")
    assert metrics.log(logged) == ""
