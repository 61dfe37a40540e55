"""Runs: every write to their rows, from the queue to the end.

The row is the truth. Who claims a run gets a fence, a number that grows with every claim; every later write carries it
and must hit one row, so that a supervisor which lost its run can change nothing any more.

    QUEUED -> CLAIMED -> RUNNING -> FINALIZING -> SUCCEEDED
    owned, and the engine or its worker went away -> INTERRUPTED -> QUEUED (3 attempts without progress: FAILED)
    CLAIMED, RUNNING + cancel requested -> CANCELLING -> CANCELLED
"""

import datetime
import functools
import logging
from pathlib import Path

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.db.models.functions import Coalesce
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from annotation.audit import record_event
from annotation.models import Snapshot
from training.engine import config as engine_config
from training.engine import rundir
from training.models import (
    ENDED_RUN_STATES,
    OWNED_RUN_STATES,
    Attempt,
    Checkpoint,
    CheckpointState,
    Metric,
    ResumePoint,
    Run,
    RunEvent,
    RunState,
)

LEASE_SECONDS = 15
ATTEMPTS_WITHOUT_PROGRESS = 3
RESEND_AFTER_SECONDS = 4  # a queued row this old may have lost its message
DEEPEST_SETTING = 8
CHECKPOINT_INPUTS = ("policy", "ref_policy", "reward_model")
SNAPSHOT_INPUTS = {
    "rankings": "rankings.jsonl",
    "demonstrations": "demonstrations.jsonl",
    "prompts": "prompts.jsonl",
}
NEEDED_INPUTS = {
    "sft": ("policy", "demonstrations"),
    "reward_model": ("policy", "rankings"),
    "ppo": ("policy", "ref_policy", "reward_model", "prompts"),
    "generate": ("policy", "prompts"),
    "evaluate": ("policy", "ref_policy", "reward_model", "prompts"),
}

logger = logging.getLogger(__name__)


class RunError(ValueError):
    """A run cannot be made or changed so. One sentence for people."""


class LostRun(Exception):
    """The fence is not ours any more: somebody else owns the run, or it has ended."""


# Making and ending runs


def create_run(
    project,
    *,
    stage,
    config=None,
    inputs=None,
    files=None,
    round=None,
    position=0,
    name="",
    idempotency_key="",
    created_by=None,
):
    """(run, created): a queued run, or the one that this idempotency key (or place in a round) made before.

    config: nested or dotted engine settings, complete or not; without `inputs`.
    inputs: {"policy": digest of a checkpoint, "rankings": digest of a snapshot, …}.
    files:  {"prompts": (uri, digest)}: inputs that are neither, named by the caller inside the data directory.
    Raises RunError with one sentence, and makes nothing, where stage, settings or inputs are wrong.
    """
    existing = _made_before(project, round=round, position=position, idempotency_key=idempotency_key)
    if existing:
        return _same_request(existing, stage), False
    if stage not in NEEDED_INPUTS:
        raise RunError(
            _("There is no stage %(stage)r to run; choose one of: %(known)s.")
            % {"stage": str(stage)[:64], "known": ", ".join(NEEDED_INPUTS)}
        )
    digests, uris = _resolve_inputs(project, stage=stage, inputs=inputs or {}, files=files or {})
    resolved = resolve_config(config or {})
    resolved["inputs"] = {**resolved["inputs"], **uris}
    try:
        with transaction.atomic():
            run = Run.objects.create(
                project=project,
                round=round,
                position=position,
                stage=stage,
                name=name[:200],
                config=resolved,
                inputs=digests,
                needs={"devices": 1},
                idempotency_key=idempotency_key,
                created_by=created_by,
            )
            if round is None:
                audit(project, created_by, "run.created", run, stage=stage)
            transaction.on_commit(functools.partial(wake_worker, run.id))
    except IntegrityError:
        existing = _made_before(project, round=round, position=position, idempotency_key=idempotency_key)
        if existing is None:
            raise
        return _same_request(existing, stage), False
    return run, True


def resolve_config(values, *, preset=""):
    """Complete nested engine settings: a preset's, with nested or dotted `values` over them.

    Raises RunError with the engine's own sentence. `inputs` are refused: artifacts are named by digest, never by path.
    """
    if not isinstance(values, dict):
        raise RunError(_('Settings must be an object such as {"ppo.kl_coef": 0.1}.'))
    try:
        merged = engine_config.resolved(engine_config.load(preset or None))
        for key, value in flattened(values).items():
            if key.split(".")[0] == "inputs" and value != "":
                raise RunError(_("Inputs are chosen by digest, not by path; leave inputs out of the settings."))
            if isinstance(value, str) and "\x00" in value:
                raise RunError(_("%(key)s has a NUL character; leave it out.") % {"key": key[:80]})
            _set(merged, key, value)
        return engine_config.resolved(engine_config.build(merged))
    except engine_config.ConfigError as error:
        raise RunError(str(error)) from None
    except OverflowError:
        raise RunError(_("One of the settings is too large a number; leave out some digits.")) from None


def request_cancel(run, *, actor=None):
    """Ends a waiting run at once; asks the supervisor of an active one to end it. False: it had ended already."""
    now = timezone.now()
    with transaction.atomic():
        waiting = Run.objects.filter(id=run.id, state__in=[RunState.QUEUED, RunState.INTERRUPTED])
        hit = waiting.update(
            state=RunState.CANCELLED,
            cancel_requested_at=now,
            finished_at=now,
            message=_("Cancelled before it started."),
        )
        if hit:
            _wake_round_after_commit(run.round_id)
        else:
            active = Run.objects.filter(id=run.id, state__in=[RunState.CLAIMED, RunState.RUNNING])
            hit = active.update(state=RunState.CANCELLING, cancel_requested_at=now)
        if hit:
            audit(run.project, actor, "run.cancelled", run)
    run.refresh_from_db()
    return bool(hit)


def retry(run, *, config=None, actor=None):
    """Queues a run again that failed or was stopped. It goes on from its last resume point, but for a sick run.

    What a guard stopped starts from the beginning: its resume points may be sick already. So does a run whose settings
    changed: they began otherwise. Then its figures begin anew as well.
    config: complete settings, without `inputs`, which stay; None: those it had.
    """
    config = run.config if config is None else {**config, "inputs": run.config["inputs"]}
    with transaction.atomic():
        hit = Run.objects.filter(id=run.id, state__in=[RunState.FAILED, RunState.STOPPED_BY_GUARD]).update(
            state=RunState.QUEUED,
            config=config,
            message="",
            attempts_without_progress=0,
            cancel_requested_at=None,
            finished_at=None,
            created_at=timezone.now(),
        )
        if not hit:
            raise RunError(_("Only a run that failed or was stopped can be taken up again."))
        goes_on = run.state == RunState.FAILED and config == run.config
        if not (goes_on and ResumePoint.objects.filter(run=run).exists()):
            _forget_attempts(run)
        audit(run.project, actor, "run.retried", run)
        transaction.on_commit(functools.partial(wake_worker, run.id))
    run.refresh_from_db()


def _forget_attempts(run):
    """Nothing of what it did so far is gone on from, nor shown among what comes: the run starts from the beginning."""
    ResumePoint.objects.filter(run=run).delete()
    Metric.objects.filter(run=run).delete()
    RunEvent.objects.filter(run=run, kind="samples").delete()
    Run.objects.filter(id=run.id).update(step=0, total_steps=0, summary={})


# What a supervisor writes, each with its fence


def claim(run_id, *, owner):
    """The fence of a run that is now the owner's, or None: gone, cancelled, or somebody else was first."""
    now = timezone.now()
    with transaction.atomic():
        claimed = Run.objects.filter(id=run_id, state=RunState.QUEUED, cancel_requested_at=None).update(
            state=RunState.CLAIMED,
            fence=F("fence") + 1,
            owner=owner,
            lease_expires_at=_lease_end(now),
            attempts=F("attempts") + 1,
            started_at=Coalesce(F("started_at"), now),
            message="",
        )
        return Run.objects.values_list("fence", flat=True).get(id=run_id) if claimed == 1 else None


def renew_lease(run_id, *, fence):
    """Whether a cancel is wanted. Raises LostRun where the run is not ours any more."""
    with transaction.atomic():
        _write(run_id, fence, lease_expires_at=_lease_end(timezone.now()))
        return Run.objects.values_list("state", flat=True).get(id=run_id) == RunState.CANCELLING


def start_attempt(run, *, fence, directory, resumed_from_step=0):
    """The row of one start of the engine; `directory` is relative to the data directory."""
    with transaction.atomic():
        _write(run.id, fence, lease_expires_at=_lease_end(timezone.now()))
        return Attempt.objects.create(
            run=run, number=run.attempts, fence=fence, directory=directory, resumed_from_step=resumed_from_step
        )


def note_pid(attempt, *, pid):
    Attempt.objects.filter(id=attempt.id).update(pid=pid)


def end_attempt(attempt, *, exit_code):
    Attempt.objects.filter(id=attempt.id).update(exit_code=exit_code, ended_at=timezone.now())


def record_events(run, *, fence, attempt, events, offset, states=OWNED_RUN_STATES):
    """Stores events and how far metrics.jsonl was read, in one transaction: no event is lost or counted twice."""
    if not events and offset == attempt.events_offset:
        return
    step = max((_step(event) for event in events), default=0)
    started = next((event for event in events if event["type"] == "started"), None)
    with transaction.atomic():
        values = {"advanced_at": timezone.now(), "step": max(step, run.step)}
        if started:
            values["total_steps"] = max(int(started.get("total_steps") or 0), 0)
        _write(run.id, fence, states=states, **values)
        if started:
            Run.objects.filter(id=run.id, fence=fence, state=RunState.CLAIMED).update(state=RunState.RUNNING)
        moved = Attempt.objects.filter(id=attempt.id, events_offset=attempt.events_offset).update(
            events_offset=offset, last_step=max(step, attempt.last_step)
        )
        if moved != 1:
            raise LostRun("another reader stored these events")
        _store_metrics(run, [event for event in events if event["type"] == "metrics"])
        _store_resume_points(run, attempt, [event for event in events if event["type"] == "checkpoint"])
        RunEvent.objects.bulk_create(_event_row(run, event) for event in events if event["type"] != "metrics")
    run.step, attempt.events_offset = values["step"], offset
    attempt.last_step = max(step, attempt.last_step)


def finalize(run_id, *, fence):
    """The engine is done, its output is being stored. A cancel that came first wins: LostRun."""
    _write(run_id, fence, states=[RunState.CLAIMED, RunState.RUNNING], state=RunState.FINALIZING)


def finish(run_id, *, fence, state, message="", **values):
    """Ends a run. `values`: summary, output_uri, output_digest of one that succeeded."""
    assert state in ENDED_RUN_STATES, state
    with transaction.atomic():
        now = timezone.now()
        _write(run_id, fence, state=state, message=message, lease_expires_at=None, owner="", finished_at=now, **values)
        _wake_round_after_commit(Run.objects.values_list("round_id", flat=True).get(id=run_id))


def interrupt(run_id, *, fence, message):
    """The engine ended early; `requeue_interrupted` decides whether it is tried again. A wanted cancel ends the run."""
    with transaction.atomic():
        _write(run_id, fence, message=message, lease_expires_at=None, owner="")
        Run.objects.filter(id=run_id, cancel_requested_at=None).update(state=RunState.INTERRUPTED)
        _end_wanted_cancel(run_id)


# What brings lost things back


def reconcile(*, now=None):
    """Puts right what a lost message or a dead worker left behind. Safe at any time, from any process."""
    now = now or timezone.now()
    for run in Run.objects.filter(state__in=OWNED_RUN_STATES, lease_expires_at__lt=now):
        take_from_dead_owner(run, now=now)
    for run in Run.objects.filter(state=RunState.INTERRUPTED):
        requeue_interrupted(run)
    resend_queued(now=now)


def take_from_dead_owner(run, *, now):
    """Ends the ownership of a run whose lease ran out. The new fence keeps the old owner from writing."""
    with transaction.atomic():
        hit = Run.objects.filter(
            id=run.id, fence=run.fence, state__in=OWNED_RUN_STATES, lease_expires_at__lt=now
        ).update(
            fence=F("fence") + 1,
            state=RunState.INTERRUPTED,
            owner="",
            lease_expires_at=None,
            message=_("Its worker went away; the run goes on by itself."),
        )
        if hit:
            _end_wanted_cancel(run.id)


def requeue_interrupted(run):
    """INTERRUPTED -> QUEUED, or FAILED after three attempts in a row that saved no progress."""
    run.refresh_from_db()
    if run.state != RunState.INTERRUPTED:
        return
    attempt = run.attempt_rows.order_by("number").last()
    if attempt:
        record_leftovers(run, attempt)
    wasted = 0 if _made_progress(attempt) else run.attempts_without_progress + 1
    if attempt and attempt.exit_code == rundir.EXIT_INTERRUPTED:
        wasted = run.attempts_without_progress  # an orderly stop is nobody's fault
    mine = Run.objects.filter(id=run.id, fence=run.fence, state=RunState.INTERRUPTED)
    with transaction.atomic():
        if wasted >= ATTEMPTS_WITHOUT_PROGRESS:
            mine.update(
                state=RunState.FAILED,
                attempts_without_progress=wasted,
                finished_at=timezone.now(),
                message=_("Given up after %(count)s attempts without progress. The last one: %(message)s")
                % {"count": wasted, "message": run.message},
            )
            _wake_round_after_commit(run.round_id)
        elif mine.update(state=RunState.QUEUED, attempts_without_progress=wasted):
            transaction.on_commit(functools.partial(wake_worker, run.id))


def record_leftovers(run, attempt):
    """Stores what an attempt wrote after its supervisor had stopped reading, its last resume points above all."""
    try:
        events, offset = rundir.read_events(data_path(attempt.directory), attempt.events_offset)
        record_events(
            run, fence=run.fence, attempt=attempt, events=events, offset=offset, states=[RunState.INTERRUPTED]
        )
    except (ValueError, KeyError, OSError, LostRun) as error:
        logger.warning("The last events of run %s could not be read: %s", run.id, error)


def resend_queued(*, now):
    """Sends the message of every queued run again, unless messages wait already: the queue never grows by it."""
    old = now - datetime.timedelta(seconds=RESEND_AFTER_SECONDS)
    waiting = list(Run.objects.filter(state=RunState.QUEUED, created_at__lt=old).order_by("created_at")[:100])
    if waiting and _messages_waiting("train") == 0:
        for run in waiting:
            wake_worker(run.id)


def resume_point(run, is_whole):
    """The newest resume point whose directory `is_whole(path, digest)`, or None. Rows only, never a listing."""
    for point in run.resume_points.order_by("-step", "-id"):
        if is_whole(data_path(point.uri), point.digest):
            return point
    return None


# Messages: wake-up calls, lost without harm


def wake_worker(run_id):
    _send("training.tasks.run_training", run_id, queue="train")


def wake_round(round_id):
    _send("training.tasks.advance_round", round_id, queue="short")


def data_path(uri):
    """The absolute path of a URI that is relative to the data directory."""
    return Path(settings.PLUMBLINE_DATA_DIR) / uri


def audit(project, actor, action, subject, **detail):
    record_event(project, actor=actor, action=action, subject=subject, detail={"id": str(subject.pk), **detail})


def _send(task, subject_id, *, queue):
    # Imported late, as below: pages send few messages, and Celery takes 0.15 s of every process's start.
    from plumbline import celery

    if not celery.send(task, str(subject_id), queue=queue):
        logger.warning("Redis cannot be reached; the reconciler will send %s again.", task)


def _messages_waiting(queue):
    from plumbline import celery

    return celery.messages_waiting(queue)


def _wake_round_after_commit(round_id):
    if round_id:
        transaction.on_commit(functools.partial(wake_round, round_id))


def _write(run_id, fence, *, states=OWNED_RUN_STATES, **values):
    hit = Run.objects.filter(id=run_id, fence=fence, state__in=states).update(**values)
    if hit != 1:
        raise LostRun(f"run {run_id} does not belong to fence {fence} any more")


def _end_wanted_cancel(run_id):
    """An unowned run for which a cancel was asked is cancelled; inside the caller's transaction."""
    wanted = Run.objects.filter(id=run_id, cancel_requested_at__isnull=False)
    if wanted.update(state=RunState.CANCELLED, finished_at=timezone.now(), message=_("Cancelled.")):
        _wake_round_after_commit(Run.objects.values_list("round_id", flat=True).get(id=run_id))


def _lease_end(now):
    return now + datetime.timedelta(seconds=LEASE_SECONDS)


def _made_before(project, *, round, position, idempotency_key):
    if round is not None:
        return Run.objects.filter(round=round, position=position).first()
    if idempotency_key:
        return Run.objects.filter(project=project, idempotency_key=idempotency_key).first()
    return None


def _same_request(run, stage):
    if run.stage != stage:
        raise RunError(
            _("This idempotency key already made a run of the stage %(stage)s; use a new key.") % {"stage": run.stage}
        )
    return run


def _resolve_inputs(project, *, stage, inputs, files):
    """Digests and data-directory URIs of a stage's inputs, each looked up among the project's own artifacts."""
    if not isinstance(inputs, dict):
        raise RunError(_('Inputs must be an object such as {"policy": "digest"}.'))
    digests, uris = {}, {}
    for name, value in inputs.items():
        artifact = _artifact(project, name, value)
        digests[name] = artifact.digest
        uris[name] = f"{artifact.uri}/{SNAPSHOT_INPUTS[name]}" if name in SNAPSHOT_INPUTS else artifact.uri
    for name, (uri, digest) in files.items():
        digests[name], uris[name] = digest, uri
    for name in NEEDED_INPUTS[stage]:
        if name not in digests:
            raise RunError(
                _("The stage %(stage)s needs the input %(name)s; name it by its digest.")
                % {"stage": stage, "name": name}
            )
    return digests, uris


def _artifact(project, name, digest):
    rows = None
    if name in CHECKPOINT_INPUTS:
        rows = Checkpoint.objects.filter(project=project).exclude(state=CheckpointState.WITHDRAWN)
    elif name in SNAPSHOT_INPUTS:
        rows = Snapshot.objects.filter(project=project)
    if rows is None:
        known = ", ".join((*CHECKPOINT_INPUTS, *SNAPSHOT_INPUTS))
        raise RunError(
            _("There is no input %(name)r; known here: %(known)s.") % {"name": str(name)[:64], "known": known}
        )
    artifact = rows.filter(digest=digest).first() if isinstance(digest, str) else None
    if artifact is None:
        raise RunError(
            _("The input %(name)s names %(digest)r, which this project does not have (or has withdrawn).")
            % {"name": name, "digest": str(digest)[:64]}
        )
    return artifact


def flattened(values, prefix="", depth=1):
    """{"ppo": {"kl_coef": 0.1}} -> {"ppo.kl_coef": 0.1}; dotted keys stay as they are. Raises RunError."""
    if depth > DEEPEST_SETTING:
        raise RunError(_("The settings are nested too deeply; %(key)s is no setting.") % {"key": prefix[:40]})
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(flattened(value, f"{prefix}{key}.", depth + 1))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _set(config, key, value):
    *parents, name = key.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
        if not isinstance(config, dict):
            raise engine_config.ConfigError(f"{key} cannot be set: {parent} is a value, not a section.")
    config[name] = value


def _step(event):
    return max(int(event.get("step") or 0), 0)


def _event_time(event):
    try:
        return parse_datetime(event["time"]) or timezone.now()
    except (KeyError, TypeError, ValueError):
        return timezone.now()


def _event_row(run, event):
    payload = {key: _storable(value) for key, value in event.items() if key not in ("schema", "type", "step", "time")}
    return RunEvent(run=run, kind=event["type"][:16], step=_step(event), payload=payload, time=_event_time(event))


def _storable(value):
    """The value with a mark for each NUL: a model that writes bytes may write one, and PostgreSQL stores none."""
    if isinstance(value, str):
        return value.replace("\x00", "\ufffd")
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_storable(item) for item in value]
    return value


def _store_metrics(run, events):
    """Several events of one step are one row; a step that is done again replaces its numbers."""
    if not events:
        return
    steps = {_step(event) for event in events}
    rows = {metric.step: metric for metric in Metric.objects.filter(run=run, step__in=steps)}
    for event in events:
        row = rows.setdefault(_step(event), Metric(run=run, step=_step(event), values={}))
        row.values = {**row.values, **event["values"]}
        row.time = _event_time(event)
    Metric.objects.bulk_create(
        [Metric(run=run, step=row.step, values=row.values, time=row.time) for row in rows.values()],
        update_conflicts=True,
        unique_fields=["run", "step"],
        update_fields=["values", "time"],
    )


def _store_resume_points(run, attempt, events):
    ResumePoint.objects.bulk_create(
        [
            ResumePoint(
                run=run,
                attempt=attempt,
                step=_step(event),
                uri=f"{attempt.directory}/{event['path']}",
                digest=event["digest"],
            )
            for event in events
        ],
        ignore_conflicts=True,
    )


def _made_progress(attempt):
    return bool(attempt) and attempt.resume_points.filter(step__gt=attempt.resumed_from_step).exists()
