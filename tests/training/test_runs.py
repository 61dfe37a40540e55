"""The rows of runs: idempotency, claims, fences, leases, cancels, and what brings lost things back."""

import datetime
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.utils import timezone

from training import runs
from training.models import Attempt, Metric, ResumePoint, Run, RunEvent, RunState

pytestmark = pytest.mark.django_db


@pytest.fixture
def claimed(make_run):
    """(run, fence, attempt) of a run that somebody owns."""
    run = make_run()
    fence = runs.claim(run.id, owner="a")
    run.refresh_from_db()
    return run, fence, runs.start_attempt(run, fence=fence, directory=f"runs/{run.id}/attempt-1")


def metrics_event(step, **values):
    return {"type": "metrics", "step": step, "time": "2026-11-20T10:00:00.000Z", "values": values}


def let_lease_run_out(run):
    Run.objects.filter(id=run.id).update(lease_expires_at=timezone.now() - datetime.timedelta(seconds=1))


def test_it_makes_one_run_for_an_idempotency_key(project, sft, make_run):
    run = make_run(idempotency_key="once")
    again, created = runs.create_run(project, stage="generate", idempotency_key="once")
    assert (again, created) == (run, False)
    with pytest.raises(runs.RunError, match="use a new key"):
        runs.create_run(project, stage="sft", idempotency_key="once")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stage": "dance"}, "no stage 'dance'"),
        ({"stage": "generate"}, "needs the input policy"),
        ({"stage": "generate", "inputs": {"policy": "f" * 64}}, "names 'ffff"),
        ({"stage": "generate", "inputs": {"policy": "../../etc"}}, "does not have"),
        ({"stage": "generate", "inputs": {"polcy": "f" * 64}}, "no input 'polcy'"),
        ({"stage": "generate", "config": {"inputs": {"policy": "/etc"}}}, "leave inputs out"),
        ({"stage": "generate", "config": {"inputs.policy": "/etc"}}, "leave inputs out"),
        ({"stage": "generate", "config": {"ppo.kl_coef": -1}}, "ppo.kl_coef=-1.0 must be at least 0"),
        ({"stage": "generate", "config": {"ppo": {"learnig": 1}}}, "ppo.learnig does not exist"),
        ({"stage": "generate", "config": {"ppo.kl_coef": float("nan")}}, "finite"),
        ({"stage": "generate", "config": {"generate": {"pool": "a\x00b"}}}, "generate.pool has a NUL character"),
    ],
)
def test_it_refuses_a_wrong_run_with_one_sentence(project, sft, arguments, words):
    inputs = {"policy": sft.digest} if "config" in arguments else {}
    options = {"files": {"prompts": ("prompts.jsonl", "0" * 64)}} if "config" in arguments else {}
    with pytest.raises(runs.RunError, match=words):
        runs.create_run(project, **{"inputs": inputs, **options, **arguments})
    assert not Run.objects.exists()


def test_it_gives_a_run_to_one_claimer(make_run):
    run = make_run()
    assert [runs.claim(run.id, owner=name) for name in "abc"] == [1, None, None]


@pytest.mark.django_db(transaction=True)
def test_it_gives_a_run_to_one_of_many_claimers_at_once(make_run):
    run = make_run()

    def claim(number):
        try:
            return runs.claim(run.id, owner=str(number))
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        fences = list(pool.map(claim, range(16)))
    assert sorted(fence for fence in fences if fence) == [1]


def test_it_writes_nothing_with_an_old_fence(claimed):
    run, fence, attempt = claimed
    let_lease_run_out(run)
    runs.reconcile()
    new_fence = runs.claim(run.id, owner="b")
    assert new_fence > fence
    with pytest.raises(runs.LostRun):
        runs.renew_lease(run.id, fence=fence)
    with pytest.raises(runs.LostRun):
        runs.record_events(run, fence=fence, attempt=attempt, events=[metrics_event(1, loss=1.0)], offset=10)
    with pytest.raises(runs.LostRun):
        runs.finish(run.id, fence=fence, state=RunState.SUCCEEDED)
    run.refresh_from_db()
    assert (run.state, run.owner) == (RunState.CLAIMED, "b")
    assert not Metric.objects.exists()


def test_it_stores_an_event_once_however_often_it_is_read(claimed):
    run, fence, attempt = claimed
    stale = Attempt.objects.get(id=attempt.id)
    events = [metrics_event(1, loss=1.0), {"type": "log", "step": 1, "level": "info", "message": "hello"}]
    runs.record_events(run, fence=fence, attempt=attempt, events=events, offset=100)
    with pytest.raises(runs.LostRun):
        runs.record_events(run, fence=fence, attempt=stale, events=events, offset=100)
    assert Metric.objects.count() == run.events.count() == 1


def test_it_merges_the_events_of_a_step_and_replaces_those_done_again(claimed):
    run, fence, attempt = claimed
    first = [metrics_event(1, loss=1.0), metrics_event(1, validation_loss=2.0)]
    runs.record_events(run, fence=fence, attempt=attempt, events=first, offset=10)
    runs.record_events(run, fence=fence, attempt=attempt, events=[metrics_event(1, loss=0.5)], offset=20)
    assert Metric.objects.get().values == {"loss": 0.5, "validation_loss": 2.0}


def test_it_requeues_a_run_whose_lease_ran_out(claimed):
    run, _fence, _attempt = claimed
    runs.reconcile()
    run.refresh_from_db()
    assert run.state == RunState.CLAIMED  # the lease still holds
    let_lease_run_out(run)
    runs.reconcile()
    run.refresh_from_db()
    assert (run.state, run.owner, run.attempts_without_progress) == (RunState.QUEUED, "", 1)


def test_it_finds_the_resume_points_that_a_dead_supervisor_left_unread(claimed, data_dir):
    from training.engine import rundir

    run, _fence, attempt = claimed
    directory = data_dir / attempt.directory
    directory.mkdir(parents=True)
    rundir.append_event(directory, "checkpoint", step=7, path="checkpoints/step-7", digest="e" * 64)
    let_lease_run_out(run)
    runs.reconcile()
    run.refresh_from_db()
    assert ResumePoint.objects.get(run=run).uri == f"{attempt.directory}/checkpoints/step-7"
    assert (run.state, run.attempts_without_progress) == (RunState.QUEUED, 0)


def test_it_cancels_a_waiting_run_at_once(make_run):
    run = make_run()
    assert runs.request_cancel(run)
    assert run.state == RunState.CANCELLED
    assert runs.claim(run.id, owner="a") is None
    assert not runs.request_cancel(run)


def test_it_cancels_a_run_whose_worker_died_meanwhile(claimed):
    run, _fence, _attempt = claimed
    runs.request_cancel(run)
    assert run.state == RunState.CANCELLING
    let_lease_run_out(run)
    runs.reconcile()
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED


def test_it_does_not_queue_a_cancelled_run_again_when_its_engine_was_interrupted(claimed):
    run, fence, _attempt = claimed
    runs.request_cancel(run)
    runs.interrupt(run.id, fence=fence, message="x")
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED


def test_it_takes_a_failed_run_up_again(claimed):
    run, fence, _attempt = claimed
    with pytest.raises(runs.RunError):
        runs.retry(run)
    runs.finish(run.id, fence=fence, state=RunState.FAILED, message="no")
    run.refresh_from_db()
    runs.retry(run)
    assert (run.state, run.message, run.finished_at) == (RunState.QUEUED, "", None)


def test_it_starts_a_sick_run_from_the_beginning(claimed):
    run, fence, attempt = claimed
    ResumePoint.objects.create(run=run, attempt=attempt, step=3, uri="x", digest="e" * 64)
    runs.finish(run.id, fence=fence, state=RunState.STOPPED_BY_GUARD, message="sick")
    run.refresh_from_db()
    record_figures(run, attempt, step=3)
    runs.retry(run)
    assert not run.resume_points.exists()
    assert not run.metrics.exists()
    assert not run.events.filter(kind="samples").exists()
    assert (run.step, run.total_steps, run.summary) == (0, 0, {})


def test_it_keeps_the_figures_of_a_run_that_goes_on(claimed):
    run, fence, attempt = claimed
    ResumePoint.objects.create(run=run, attempt=attempt, step=3, uri="x", digest="e" * 64)
    record_figures(run, attempt, step=3)
    runs.finish(run.id, fence=fence, state=RunState.FAILED, message="no")
    run.refresh_from_db()
    runs.retry(run)
    assert (run.metrics.count(), run.step, run.resume_points.count()) == (1, 3, 1)


def record_figures(run, attempt, *, step):
    Metric.objects.create(run=run, step=step, values={"loss": 1.0}, time=timezone.now())
    RunEvent.objects.create(run=run, kind="samples", step=step, time=timezone.now())
    Run.objects.filter(id=run.id).update(step=step, total_steps=9, summary={"loss": 1.0})


def test_it_sends_lost_messages_again_but_never_piles_them_up(make_run, monkeypatch):
    run = make_run()
    Run.objects.update(created_at=timezone.now() - datetime.timedelta(minutes=1))
    sent, waiting = [], [0, 1, None]
    monkeypatch.setattr(runs, "wake_worker", sent.append)
    monkeypatch.setattr(runs, "_messages_waiting", lambda queue: waiting.pop(0))
    runs.reconcile()
    assert sent == [run.id]
    runs.reconcile()
    runs.reconcile()
    assert sent == [run.id]


def test_it_notes_who_made_a_single_run(make_run, project, admin):
    run = make_run(created_by=admin)
    assert project.audit_events.get(action="run.created").detail == {"id": str(run.id), "stage": "generate"}


def test_it_stores_a_nul_that_a_model_wrote_as_a_mark(claimed):
    run, fence, attempt = claimed
    samples = [{"prompt": "p", "completion": "a\x00b"}]
    event = {"type": "samples", "step": 1, "samples": samples}
    runs.record_events(run, fence=fence, attempt=attempt, events=[event], offset=9)
    assert run.events.get().payload == {"samples": [{"prompt": "p", "completion": "a\ufffdb"}]}
