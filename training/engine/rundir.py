"""Names and records in a run directory: what an engine run leaves behind, and how others read it.

Standard library only, so that the web process may import it.

    RUN_DIR/
      config.json          the resolved configuration, enough to repeat the run
      metrics.jsonl        events, one JSON object a line, appended as the run goes
      checkpoints.jsonl    one line a resume checkpoint, written after the checkpoint is whole
      checkpoints/         resume checkpoints (weights and trainer state)
      report.json          of a reward model: its figures on held-out rankings, and where it is most surely wrong
      output/              what the stage is for: a checkpoint directory, or completions.jsonl, or report.json

An event: {"schema": "plumbline.event/1", "type", "step", "time", ...}. Types and their further keys:

    started      stage, config_digest, total_steps, device, resumed_from_step (0 for a fresh start)
    metrics      values: {name: number}; the names stand in docs/metrics.md
    samples      samples: [{"prompt", "completion", "reference", "score", "reference_score"}]
    checkpoint   path (relative to the run directory), digest
    log          level (info, warning), message
    finished     output (relative path), digest (of a checkpoint, or null), summary: {name: number}
    stopped      reason: guard | interrupted | error; message, one sentence for people; exit_code
"""

import datetime
import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path

EVENT_SCHEMA = "plumbline.event/1"
STAGES = ("tokenizer", "pretrain", "sft", "reward_model", "ppo", "generate", "evaluate")

EXIT_OK = 0
EXIT_USAGE = 2  # wrong settings or wrong input: trying again cannot help
EXIT_GUARD = 3  # a health guard stopped a sick run
EXIT_INTERRUPTED = 75  # SIGTERM: checkpointed, and can be resumed
EXIT_ORPHANED = 76  # the supervisor is gone

CONFIG = "config.json"
EVENTS = "metrics.jsonl"
CHECKPOINT_RECORDS = "checkpoints.jsonl"
CHECKPOINTS = "checkpoints"
OUTPUT = "output"
REPORT = "report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """One whole resume checkpoint."""

    step: int
    path: str  # relative to the run directory
    digest: str  # sha256 of its manifest


def create(path, config):
    """Makes the run directory (or takes up an existing one) and saves the resolved configuration."""
    path = Path(path)
    (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    write_json(path / CONFIG, config)
    return path


def write_json(path, value):
    """Writes JSON so that a reader sees the old file or the new one, never half of one."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def append_event(path, kind, /, *, step=0, **values):
    """Appends one event and returns it. One write call a line, so that a reader never sees two lines mixed."""
    event = {
        "schema": EVENT_SCHEMA,
        "type": kind,
        "step": step,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **values,
    }
    _append_line(Path(path) / EVENTS, event)
    return event


def read_events(path, offset=0):
    """Whole events after a byte offset, and the offset to go on from. A half-written last line waits; lines that a full
    disk or a crash cut short are passed over."""
    file_path = Path(path) / EVENTS
    if not file_path.exists():
        return [], offset
    with open(file_path, "rb") as file:
        file.seek(offset)
        data = file.read()
    end = data.rfind(b"\n") + 1
    return [event for line in data[:end].splitlines() if (event := _event_in(line))], offset + end


def _event_in(line):
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "type" in event else None


def record_checkpoint(path, record):
    """Appends a checkpoint's record: only now does the checkpoint count."""
    _append_line(
        Path(path) / CHECKPOINT_RECORDS, {"step": record.step, "path": record.path, "digest": record.digest}, sync=True
    )


def checkpoint_records(path):
    """Records of resume checkpoints, oldest first; lines that a crash cut short are passed over."""
    file_path = Path(path) / CHECKPOINT_RECORDS
    if not file_path.exists():
        return []
    records = []
    for line in file_path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
            records.append(CheckpointRecord(step=values["step"], path=values["path"], digest=values["digest"]))
        except (ValueError, KeyError):
            continue
    return records


def _append_line(path, value, *, sync=False):
    # NaN is no JSON: a reader in another language must be able to read every line.
    line = (json.dumps(_finite(value), ensure_ascii=False, allow_nan=False) + "\n").encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last one was cut short, by a full disk or a crash
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _finite(value):
    """The value with every NaN or infinite float as null."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
