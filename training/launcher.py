"""The supervisor of one attempt at a run: claims it, starts the engine, listens to it, and settles what it left.

The engine is a subprocess with a pipe as its standard input, whose other end this process alone holds: the engine ends
itself when the pipe closes, however this process ended. Nothing of ours is in its environment but the path to the
package, and its arguments are a list that no shell reads.
"""

import contextlib
import errno
import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils.translation import gettext as _

import training
from training import checkpoints, runs
from training.engine import rundir
from training.models import Attempt, Checkpoint, CheckpointRole, Run, RunState

# -P: the run directory, which is the working directory, is no place to import from.
ENGINE_COMMAND = (sys.executable, "-P", "-m", "training.engine")
POLL_SECONDS = 0.25
RENEW_SECONDS = 1.5  # also how soon a cancel is seen
STOP_SECONDS = 4.0  # from SIGTERM to SIGKILL; `up` waits 7 s for the whole worker
SILENT_SECONDS = 900.0  # no event and no processor time for so long: the engine hangs
LEAST_FREE_BYTES = 64 << 20
ENGINE_NICENESS = 5  # the web stays quick beside it
LOG = "engine.log"
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE")
PASSED_ON_PREFIXES = (
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "PYTORCH_",
    "TORCH_",
    "TORCHINDUCTOR_",
)
OUTPUT_ROLES = {
    "sft": CheckpointRole.SFT,
    "reward_model": CheckpointRole.REWARD_MODEL,
    "ppo": CheckpointRole.POLICY,
}

logger = logging.getLogger(__name__)


def supervise(run_id, *, owner, should_stop=lambda: False, command=None):
    """Sees one attempt at a run through, from the claim to its end. Returns at once where the run is not to be had.

    should_stop: asked several times a second; when true the engine is told to save, and the run goes back to the queue.
    """
    fence = runs.claim(run_id, owner=owner)
    if fence is None:
        return
    run = Run.objects.select_related("project", "round", "created_by").get(id=run_id)
    try:
        with running_engine(run, Lease(run_id=run.id, fence=fence), command or ENGINE_COMMAND) as engine:
            settle(engine, watch(engine, should_stop))
    except runs.LostRun as lost:
        logger.warning("Stopped supervising: %s", lost)
    except OSError as error:
        logger.exception("The run %s could not be supervised", run.id)
        full = error.errno == errno.ENOSPC
        message = disk_message() if full else _("The run could not be started: %(why)s.") % {"why": error.strerror}
        with contextlib.suppress(runs.LostRun):
            runs.finish(run.id, fence=fence, state=RunState.FAILED, message=message)
    except Exception:
        # At once rather than when the lease runs out. Without a database the lease has to do.
        with contextlib.suppress(Exception):
            runs.interrupt(run.id, fence=fence, message=_("Its supervisor failed; the worker's log says why."))
        raise


@dataclass(slots=True, kw_only=True)
class Lease:
    """Our hold on a run, to be renewed all the time."""

    run_id: object
    fence: int
    renew_at: float = 0.0  # on the monotonic clock, like what follows
    ends_at: float = field(default_factory=lambda: time.monotonic() + runs.LEASE_SECONDS)
    cancel_wanted: bool = False

    def keep(self):
        """Renews the lease when it is time, and learns whether a cancel is wanted. Raises LostRun."""
        now = time.monotonic()
        if now < self.renew_at:
            return
        with self.patience():
            self.cancel_wanted = runs.renew_lease(self.run_id, fence=self.fence)
            self.renew_at = now + RENEW_SECONDS
            self.ends_at = now + runs.LEASE_SECONDS

    @contextlib.contextmanager
    def patience(self):
        """A database that is away for a moment is no reason to give up; one that is away for a whole lease is."""
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            connection.close()
            if time.monotonic() > self.ends_at:
                raise runs.LostRun(f"the database is away: {error}") from None
            logger.warning("The database did not answer for run %s: %s", self.run_id, error)


@dataclass(slots=True, kw_only=True)
class Engine:
    """A started engine, and what its supervisor knows of it."""

    run: Run
    lease: Lease
    attempt: Attempt
    directory: Path
    process: subprocess.Popen
    finished: dict | None = None  # the `finished` event
    stopped: dict | None = None  # the `stopped` event

    def read_events(self):
        """Stores what the engine has written since; returns whether there was any."""
        events, offset = rundir.read_events(self.directory, self.attempt.events_offset)
        for event in events:
            if event["type"] == "finished":
                self.finished = event
            elif event["type"] == "stopped":
                self.stopped = event
        with self.lease.patience():
            runs.record_events(self.run, fence=self.lease.fence, attempt=self.attempt, events=events, offset=offset)
        return bool(events)


@contextlib.contextmanager
def running_engine(run, lease, command):
    """Starts the engine in a directory of its own; whatever happens, it has ended when the block is left."""
    attempt, directory = prepare(run, lease)
    with open(directory / LOG, "ab") as log:
        process = subprocess.Popen(
            [
                *command,
                run.stage,
                "--config",
                str(directory / rundir.CONFIG),
                "--run-dir",
                str(directory),
                "--lifeline",
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=directory,
            env=engine_environment(),
            close_fds=True,
            # Ctrl-C in a terminal is for `up`, which tells us; a kill of our group must not skip the checkpoint.
            start_new_session=True,
        )
    try:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, ENGINE_NICENESS)
        runs.note_pid(attempt, pid=process.pid)
        yield Engine(run=run, lease=lease, attempt=attempt, directory=directory, process=process)
    finally:
        end(process)


def prepare(run, lease):
    """The attempt's row and its directory with the configuration, where to resume from included."""
    uri = f"runs/{run.id}/attempt-{run.attempts}"
    directory = runs.data_path(uri)
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(directory).free < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    point = runs.resume_point(run, functools.partial(checkpoints.is_whole, on_progress=lease.keep))
    attempt = runs.start_attempt(run, fence=lease.fence, directory=uri, resumed_from_step=point.step if point else 0)
    inputs = {name: str(runs.data_path(uri)) if uri else "" for name, uri in run.config["inputs"].items()}
    inputs["resume"] = str(runs.data_path(point.uri)) if point else ""
    rundir.write_json(directory / rundir.CONFIG, {**run.config, "inputs": inputs})
    return attempt, directory


def engine_environment():
    """What the engine gets to see: no settings and no secrets of the web, whatever this process was started with."""
    environment = {
        name: value for name, value in os.environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)
    }
    # Threads that wait by spinning make the engine many times slower wherever another process is busy.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment["PYTHONPATH"] = str(Path(training.__file__).resolve().parent.parent)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


def watch(engine, should_stop):
    """Listens until the engine has ended. Returns who ended it: "" (itself), "shutdown", "cancel" or "hung"."""
    why, kill_at = "", None
    last_sign, processor_seconds = time.monotonic(), 0.0
    while True:
        ended = engine.process.poll() is not None
        engine.lease.keep()
        spoke = engine.read_events()
        if ended:
            return why
        now = time.monotonic()
        used = processor_seconds_of(engine.process.pid)
        if spoke or used > processor_seconds:
            last_sign, processor_seconds = now, used
        if not why:
            why = "cancel" if engine.lease.cancel_wanted else "shutdown" if should_stop() else ""
            why = why or ("hung" if now - last_sign > SILENT_SECONDS else "")
            if why:
                send_signal(engine.process, signal.SIGTERM)
                kill_at = now + STOP_SECONDS
        elif now > kill_at:
            send_signal(engine.process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            engine.process.wait(POLL_SECONDS)


def settle(engine, why):
    """Turns how the engine ended into the run's state."""
    run, fence, code = engine.run, engine.lease.fence, engine.process.returncode
    # A stop that we asked for is orderly, even if the engine was too slow to save.
    runs.end_attempt(engine.attempt, exit_code=rundir.EXIT_INTERRUPTED if why == "shutdown" else code)
    if why == "cancel":
        runs.finish(run.id, fence=fence, state=RunState.CANCELLED, message=_("Cancelled."))
        drop_resume_checkpoints(run)
    elif code == rundir.EXIT_OK and engine.finished is not None:
        store_output(engine)
    elif code == rundir.EXIT_GUARD:
        runs.finish(run.id, fence=fence, state=RunState.STOPPED_BY_GUARD, message=end_message(engine))
    elif code == rundir.EXIT_USAGE:
        runs.finish(run.id, fence=fence, state=RunState.FAILED, message=end_message(engine))
    elif disk_is_full(engine):
        runs.finish(run.id, fence=fence, state=RunState.FAILED, message=disk_message())
    else:
        runs.interrupt(run.id, fence=fence, message=interruption_message(engine, why))
        if why != "shutdown":
            # At the worker's end the reconciler does it: nothing here would take the run up now.
            runs.requeue_interrupted(run)


def store_output(engine):
    """Verifies and keeps what the stage is for; the run has succeeded when its row says so."""
    run, fence = engine.run, engine.lease.fence
    if runs.renew_lease(run.id, fence=fence):
        runs.finish(run.id, fence=fence, state=RunState.CANCELLED, message=_("Cancelled."))
        drop_resume_checkpoints(run)
        return
    runs.finalize(run.id, fence=fence)
    summary = engine.finished.get("summary") or {}
    output = f"{engine.attempt.directory}/{rundir.OUTPUT}"
    digest = ""
    try:
        if run.stage in OUTPUT_ROLES:
            checkpoint = checkpoints.add_checkpoint(
                run.project,
                role=OUTPUT_ROLES[run.stage],
                path=runs.data_path(output),
                name=checkpoint_name(run),
                run=run,
                parent=Checkpoint.objects.filter(project=run.project, digest=run.inputs.get("policy", "")).first(),
                figures=summary,
                on_progress=engine.lease.keep,
            )
            output, digest = checkpoint.uri, checkpoint.digest
    except checkpoints.CheckpointError as error:
        runs.finish(run.id, fence=fence, state=RunState.FAILED, message=str(error))
        return
    runs.finish(
        run.id,
        fence=fence,
        state=RunState.SUCCEEDED,
        summary=summary,
        output_uri=output,
        output_digest=digest,
    )
    drop_resume_checkpoints(run)


def drop_resume_checkpoints(run):
    """A run that is over needs none; they are the largest files of all. One that failed keeps them, to be retried."""
    for attempt in run.attempt_rows.all():
        shutil.rmtree(runs.data_path(attempt.directory) / rundir.CHECKPOINTS, ignore_errors=True)


def checkpoint_name(run):
    if run.name:
        return run.name
    stage = str(CheckpointRole(OUTPUT_ROLES[run.stage]).label)
    if run.round:
        return _("Round %(number)s: %(role)s") % {"number": run.round.number, "role": stage}
    return f"{stage} {str(run.id)[:8]}"


# What people read


def end_message(engine):
    """The engine's own sentence, or the last words of its log."""
    message = (engine.stopped or {}).get("message") or last_log_line(engine.directory)
    return str(message or _("The engine gave no reason; its log may tell more."))[:1000]


def interruption_message(engine, why):
    code = engine.process.returncode
    if why == "shutdown" or code == rundir.EXIT_INTERRUPTED:
        return _("Interrupted because its worker stopped; it goes on by itself.")
    if why == "hung":
        return _("The engine gave no sign of life for %(minutes)d minutes and was ended.") % {
            "minutes": SILENT_SECONDS // 60
        }
    if code == -signal.SIGKILL:
        return _("The engine was killed from outside; if that repeats, the machine may lack memory for these settings.")
    if code < 0:
        return _("The engine was ended by the signal %(name)s.") % {"name": signal.Signals(-code).name}
    return _("The engine ended unexpectedly with status %(code)s: %(why)s") % {"code": code, "why": end_message(engine)}


def last_log_line(directory):
    """The last line of the log that says something, cut short; a page shows it, the whole log can be downloaded."""
    with contextlib.suppress(OSError), open(directory / LOG, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 8192))
        lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
        return next((line[:300] for line in reversed(lines) if line), "")
    return ""


def disk_is_full(engine):
    words = os.strerror(errno.ENOSPC).lower()
    return words in end_message(engine).lower() or words in last_log_line(engine.directory).lower()


def disk_message():
    return _(
        "The disk is full. The last good checkpoint is safe: free some space in %(folder)s, then take the run up again."
    ) % {"folder": settings.PLUMBLINE_DATA_DIR}


# Processes


def end(process):
    """The engine has ended when this returns; closing the pipe alone would do, but takes the engine a moment."""
    if process.poll() is None:
        send_signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)
    with contextlib.suppress(OSError):
        process.stdin.close()
    if process.poll() is None:
        send_signal(process, signal.SIGKILL)
    process.wait()


def send_signal(process, number):
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def processor_seconds_of(pid):
    """Processor time that a process has used; 0 where the system does not tell."""
    try:
        # The name stands in brackets and may hold spaces; utime and stime are the 14th and 15th fields.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
