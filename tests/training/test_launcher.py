"""The supervisor of one attempt, over an engine that only pretends."""

import json
import os
import time

import pytest
from django.db import InterfaceError, OperationalError

from training import launcher, metrics, runs
from training.models import Checkpoint, Metric, RunState

pytestmark = pytest.mark.django_db


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def after_step(run, step, action):
    """A should_stop that does `action()` once the run has got as far as `step`."""

    def should_stop():
        return Metric.objects.filter(run=run, step__gte=step).exists() and bool(action())

    return should_stop


def test_it_takes_a_run_from_the_queue_to_its_end(make_run, supervise, data_dir):
    run = supervise(make_run("ppo"), "succeed")
    assert (run.state, run.message) == (RunState.SUCCEEDED, "")
    assert (run.step, run.total_steps, run.summary["loss"]) == (5, 5, 0.2)
    assert [row["values"]["loss"] for row in metrics.series(run)] == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5]
    assert metrics.series(run, after=3, names=["strange"])[0]["values"] == {"strange": None}
    assert metrics.samples(run)[0]["completion"] == "c"
    checkpoint = Checkpoint.objects.get(run=run)
    assert (checkpoint.role, checkpoint.state, checkpoint.digest) == ("policy", "verified", run.output_digest)
    assert checkpoint.parent.digest == run.inputs["policy"]
    assert (data_dir / "checkpoints" / checkpoint.digest[:12] / "model.safetensors").is_file()


def test_it_leaves_a_run_that_somebody_else_claimed(make_run, supervise):
    run = make_run()
    runs.claim(run.id, owner="the other")
    run = supervise(run, "succeed")
    assert (run.state, run.owner, run.attempts) == (RunState.CLAIMED, "the other", 1)


@pytest.mark.parametrize(
    ("scenario", "state", "words"),
    [
        ("guard", RunState.STOPPED_BY_GUARD, "The entropy fell below 0.02 at step 2"),
        ("usage", RunState.FAILED, "rankings.jsonl line 3 has no ranking"),
        ("fill_disk", RunState.FAILED, "The disk is full"),
        ("crash", RunState.QUEUED, "RuntimeError: a bug of ours"),
        ("end_without_result", RunState.QUEUED, "status 0"),
    ],
)
def test_it_turns_the_exit_into_a_state_and_a_sentence(make_run, supervise, scenario, state, words):
    run = supervise(make_run(), scenario)
    assert run.state == state
    assert words in run.message
    assert "Traceback" not in run.message
    assert len(run.message.splitlines()) == 1


def test_it_refuses_weights_that_are_not_finite(make_run, supervise):
    run = supervise(make_run("ppo"), "make_nan")
    assert run.state == RunState.FAILED
    assert "not finite" in run.message
    assert not Checkpoint.objects.filter(run=run).exists()


def test_it_gives_up_after_three_attempts_without_progress(make_run, supervise):
    run = make_run()
    states = [supervise(run, "crash").state for _attempt in range(3)]
    assert states == [RunState.QUEUED, RunState.QUEUED, RunState.FAILED]
    assert "3 attempts without progress" in run.message


def test_it_goes_on_as_long_as_attempts_save_progress(make_run, supervise):
    run = make_run()
    for attempt in range(1, 6):
        run = supervise(run, "save_then_crash")
        assert (run.state, run.attempts_without_progress) == (RunState.QUEUED, 0)
        assert run.attempt_rows.get(number=attempt).resumed_from_step == attempt - 1


def test_it_saves_and_goes_back_to_the_queue_when_the_worker_stops(make_run, supervise):
    run = make_run()
    began = time.monotonic()
    run = supervise(run, "work_then_succeed", should_stop=after_step(run, 3, lambda: True))
    assert run.state == RunState.INTERRUPTED
    assert time.monotonic() - began < launcher.STOP_SECONDS
    runs.reconcile()
    run = supervise(run, "work_then_succeed")
    assert (run.state, run.attempts, run.attempts_without_progress) == (RunState.SUCCEEDED, 2, 0)
    first, second = run.attempt_rows.all()
    assert second.resumed_from_step == first.last_step >= 3


def test_it_ends_an_engine_that_ignores_sigterm(make_run, supervise, monkeypatch):
    monkeypatch.setattr(launcher, "STOP_SECONDS", 0.3)
    run = supervise(make_run(), "ignore_sigterm", should_stop=lambda: True)
    assert run.state == RunState.INTERRUPTED
    assert not is_alive(run.attempt_rows.get().pid)


def test_it_cancels_in_mid_run_and_soon(make_run, supervise):
    run = make_run()
    moment = []

    def cancel():
        if not moment:
            moment.append(time.monotonic())
            runs.request_cancel(run)

    run = supervise(run, "work", should_stop=after_step(run, 2, cancel))
    assert (run.state, run.message) == (RunState.CANCELLED, "Cancelled.")
    assert time.monotonic() - moment[0] < 3
    assert not is_alive(run.attempt_rows.get().pid)


def test_it_ends_an_engine_that_hangs(make_run, supervise, monkeypatch):
    monkeypatch.setattr(launcher, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(launcher, "STOP_SECONDS", 0.1)
    run = supervise(make_run(), "ignore_sigterm")
    assert run.state == RunState.QUEUED
    assert "no sign of life" in run.message


def test_it_ends_the_engine_of_a_run_that_it_lost(make_run, supervise):
    run = make_run()

    def lose():
        type(run).objects.filter(id=run.id).update(fence=99)

    run = supervise(run, "work", should_stop=after_step(run, 2, lose))
    assert (run.fence, run.state) == (99, RunState.RUNNING)
    assert not is_alive(run.attempt_rows.get().pid)


def test_it_bears_a_database_that_is_away_for_a_moment(make_run, supervise, monkeypatch):
    record_events, faults = runs.record_events, [OperationalError("away"), InterfaceError("away")]

    def record(*arguments, **options):
        if faults:
            raise faults.pop()
        record_events(*arguments, **options)

    monkeypatch.setattr(launcher.connection, "close", lambda: None)  # it holds the test's transaction
    monkeypatch.setattr(runs, "record_events", record)
    run = make_run()
    run = supervise(run, "work_then_succeed", should_stop=after_step(run, 2, lambda: True))
    assert (run.state, faults) == (RunState.INTERRUPTED, [])
    assert run.metrics.count() == run.step


def test_it_ends_the_engine_when_the_database_stays_away(make_run, supervise, monkeypatch):
    def renew(*arguments, **options):
        raise OperationalError("away")

    monkeypatch.setattr(launcher.connection, "close", lambda: None)
    monkeypatch.setattr(runs, "renew_lease", renew)
    monkeypatch.setattr(runs, "LEASE_SECONDS", 1)
    run = supervise(make_run(), "work")
    assert run.state == RunState.RUNNING  # the reconciler will take it, once the database is back
    assert not is_alive(run.attempt_rows.get().pid)


def test_it_passes_over_a_line_that_is_no_event(make_run, supervise):
    assert supervise(make_run(), "write_nonsense").state == RunState.SUCCEEDED


def test_it_does_not_wait_for_the_lease_when_events_cannot_be_read(make_run, supervise, monkeypatch):
    def fail(*_arguments):
        raise ValueError("no such event")

    monkeypatch.setattr(launcher.rundir, "read_events", fail)
    run = make_run()
    with pytest.raises(ValueError, match="no such event"):
        supervise(run, "work")
    run.refresh_from_db()
    assert run.state == RunState.INTERRUPTED
    assert not is_alive(run.attempt_rows.get().pid)


def test_it_shows_the_engine_no_secret(make_run, supervise, monkeypatch, data_dir):
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.setenv(name, "secret")
    run = supervise(make_run(), "show_environment")
    seen = json.loads((data_dir / run.attempt_rows.get().directory / "environment.json").read_text())
    assert "secret" not in seen.values()
    assert seen["OMP_WAIT_POLICY"] == "PASSIVE"


def test_it_hands_hostile_names_over_as_text(make_run, supervise):
    run = supervise(make_run(name="; rm -rf / $(touch /tmp/x) --run-dir"), "succeed")
    assert run.state == RunState.SUCCEEDED


def test_it_fails_with_advice_where_the_disk_is_full(make_run, supervise, monkeypatch):
    monkeypatch.setattr(launcher, "LEAST_FREE_BYTES", 1 << 62)
    run = supervise(make_run(), "succeed")
    assert run.state == RunState.FAILED
    assert "free some space" in run.message


def test_it_passes_over_a_resume_point_that_is_not_whole(make_run, supervise, data_dir):
    run = make_run()
    run = supervise(run, "work", should_stop=after_step(run, 4, lambda: True))
    newest, before = run.resume_points.order_by("-step")[:2]
    (data_dir / newest.uri / "state.json").write_text("{}")
    runs.reconcile()
    run = supervise(run, "succeed")
    assert run.attempt_rows.get(number=2).resumed_from_step == before.step
