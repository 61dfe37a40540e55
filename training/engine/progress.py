"""Bookkeeping that every stage shares: events, resume checkpoints, requests to stop.

    progress = Progress(config, run_dir, stage="sft", total_steps=n, should_stop=should_stop)
    progress.track(policy=policy, optimizer=optimizer)
    progress.start(resume)                       # restores what is tracked; progress.step is where to go on
    for step in progress.steps():                # 0-based
        ...
        progress.metrics(step + 1, loss=loss)    # (progress.metrics_due(step + 1) tells whether it would be written)
        progress.end_step(step + 1)              # checkpoints when due; raises Interrupted when asked to stop
    digest = progress.write_output(checkpoint.save_policy, policy, tokenizer)
    progress.finish(digest=digest, summary={...})

What is tracked has state_dict and load_state_dict (modules, optimizers, own classes), or is a torch.Generator. Tensors
go to safetensors, numbers and text to JSON. torch's global generator is always kept. Of several ranks all call this, in
step, and the first alone writes.
"""

import hashlib
import json
import shutil
import time
from pathlib import Path

import torch

from training.engine import checkpoint, launch, rundir
from training.engine import config as settings
from training.engine.bar import Bar
from training.engine.distributed import agree, is_same

# Keys of run that change no result (but for the last bits): a run may be resumed with others.
BOOKKEEPING = (
    "checkpoint_every_steps",
    "checkpoint_every_seconds",
    "keep_checkpoints",
    "log_every_steps",
    "threads",
    "devices",
)


class Interrupted(Exception):
    """The run was asked to stop; it has written a checkpoint and can be resumed."""


class GuardStopped(Exception):
    """A health guard stopped a sick run. The message is one sentence for people."""


class Progress:
    """Events, resume checkpoints and stop requests of one run of a stage."""

    def __init__(self, config, run_dir, *, stage, total_steps, should_stop=None, clock=time.monotonic):
        self.config, self.stage, self.total_steps = config, stage, total_steps
        self.run_dir = Path(run_dir)
        self.step = 0
        self.should_stop = should_stop or (lambda: False)
        self._tracked = {}
        self._clock = clock
        self._saved_at, self._saved_step = clock(), 0
        self._bar = Bar(stage, total_steps)
        self._bar.is_shown &= launch.is_main()

    @property
    def output(self):
        """Where the stage writes what it is for."""
        return self.run_dir / rundir.OUTPUT

    def track(self, **parts):
        """Names what a checkpoint keeps."""
        self._tracked |= parts

    def start(self, resume=None, *, device="cpu"):
        """Writes the event `started`; restores what is tracked from the resume checkpoint, if one is given.

        Raises CheckpointError for one that does not fit, and where ranks would not go on from the same one.
        """
        if resume:
            self._restore(Path(resume))
        if not is_same(f"{self.step} {checkpoint.digest(resume) if resume else ''}"):
            # Gradients of different weights would be added up.
            raise checkpoint.CheckpointError(
                "The ranks do not resume from the same checkpoint; put the run directory where all machines see it, or "
                "name a copy of one checkpoint to each by inputs.resume."
            )
        if launch.is_main():
            for folder in (self.run_dir, self.run_dir / rundir.CHECKPOINTS):
                if folder.is_dir():
                    checkpoint.remove_leftovers(folder)
        self._saved_at, self._saved_step = self._clock(), self.step
        self._bar.start(self.step)
        self._event(
            "started",
            stage=self.stage,
            config_digest=config_digest(self.config),
            total_steps=self.total_steps,
            device=str(device),
            resumed_from_step=self.step,
        )
        if resume:
            self.log(f"Interrupted before; goes on from step {self.step} of {self.total_steps}.")

    def steps(self):
        """The steps that are still to do, from 0."""
        return range(self.step, self.total_steps)

    def metrics_due(self, step):
        """Whether metrics of this many finished steps are written."""
        return step % self.config.run.log_every_steps == 0 or step == self.total_steps

    def metrics(self, step, *, always=False, **values):
        """Writes a metrics event, if one is due (or always). Values are numbers."""
        self._bar.note(values)
        if always or self.metrics_due(step):
            self._event("metrics", step=step, values={name: float(value) for name, value in values.items()})

    def samples(self, step, samples):
        """Writes completions to look at, keys as in rundir."""
        self._event("samples", step=step, samples=samples)

    def log(self, message, *, level="info"):
        """Writes one sentence for people."""
        self._event("log", level=level, message=message)

    def end_step(self, step, *, resumable=True):
        """Call when `step` steps are finished. Checkpoints when due; raises Interrupted when asked to stop.

        After the last step there is no stopping any more: the output is about to be written. A stage that is not
        resumable starts again from the beginning.
        """
        self.step = step
        self._bar.advance(step)
        if step == self.total_steps:
            return
        run = self.config.run
        due = self._clock() - self._saved_at >= run.checkpoint_every_seconds
        due = due or (run.checkpoint_every_steps and step - self._saved_step >= run.checkpoint_every_steps)
        stopping, due = agree(self.should_stop(), due)
        if resumable and (stopping or due):
            self.save()
        if stopping:
            self._bar.end()
            raise Interrupted(f"The run was interrupted after step {step} of {self.total_steps}; it can be resumed.")

    def save(self):
        """Writes a resume checkpoint and its record, and drops the oldest ones beyond keep_checkpoints."""
        if launch.is_main():
            self._write_state()
        self._saved_at, self._saved_step = self._clock(), self.step

    def _write_state(self):
        name = f"{rundir.CHECKPOINTS}/step-{self.step:08d}"
        tensors, meta = {}, {}
        for part, thing in {**self._tracked, "torch_generator": torch.default_generator}.items():
            meta[part] = _flatten(_state_of(thing), part, tensors)
        digest = checkpoint.save_state(
            self.run_dir / name,
            tensors,
            {"stage": self.stage, "step": self.step, "config_digest": config_digest(self.config), "parts": meta},
        )
        rundir.record_checkpoint(self.run_dir, rundir.CheckpointRecord(step=self.step, path=name, digest=digest))
        self._event("checkpoint", step=self.step, path=name, digest=digest)
        self._prune()

    def write_output(self, save, *things):
        """save(*things, directory) into output/; returns the digest, or None on a rank that does not write."""
        return save(*things, self.output) if launch.is_main() else None

    def write_report(self, values):
        """Writes what people may read about the output, beside it."""
        if launch.is_main():
            rundir.write_json(self.run_dir / rundir.REPORT, values)

    def finish(self, *, digest=None, summary=None):
        """Writes the event `finished`: the output is whole."""
        numbers = {name: float(value) for name, value in (summary or {}).items()}
        self._event("finished", output=rundir.OUTPUT, digest=digest, summary=numbers)

    def _event(self, kind, *, step=None, **values):
        if launch.is_main():
            rundir.append_event(self.run_dir, kind, step=self.step if step is None else step, **values)

    def _restore(self, path):
        tensors, meta = checkpoint.load_state(path)
        if meta.get("stage") != self.stage:
            raise checkpoint.CheckpointError(
                f"{path} is a checkpoint of the stage {meta.get('stage')!r} and cannot resume {self.stage!r}."
            )
        parts = {**self._tracked, "torch_generator": torch.default_generator}
        if set(parts) != set(meta["parts"]):
            raise checkpoint.CheckpointError(f"{path} was written by a run of another shape and cannot be resumed.")
        for part, thing in parts.items():
            try:
                _restore_into(thing, _unflatten(meta["parts"][part], tensors))
            except (RuntimeError, ValueError, KeyError) as error:
                reason = " ".join(str(error).split())[:160]
                raise checkpoint.CheckpointError(f"{path} does not fit this run ({part}: {reason}).") from None
        self.step = meta["step"]
        if meta.get("config_digest") != config_digest(self.config):
            self.log("The settings differ from those that the resume checkpoint was written with.", level="warning")

    def _prune(self):
        kept = {record.path for record in rundir.checkpoint_records(self.run_dir)[-self.config.run.keep_checkpoints :]}
        for folder in (self.run_dir / rundir.CHECKPOINTS).glob("step-*"):
            if f"{rundir.CHECKPOINTS}/{folder.name}" not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def newest_checkpoint(run_dir):
    """Directory of the newest recorded resume checkpoint that is whole, or None."""
    run_dir = Path(run_dir)
    for record in reversed(rundir.checkpoint_records(run_dir)):
        path = run_dir / record.path
        try:
            if checkpoint.check_manifest(path) == "state" and checkpoint.digest(path) == record.digest:
                return path
        except checkpoint.CheckpointError:
            continue
    return None


def config_digest(config):
    """sha256 of the resolved settings; those of the run's bookkeeping and of resuming apart."""
    values = settings.resolved(config)
    values["inputs"].pop("resume")
    for key in BOOKKEEPING:
        values["run"].pop(key)
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _state_of(thing):
    return thing.get_state() if isinstance(thing, torch.Generator) else thing.state_dict()


def _restore_into(thing, state):
    if isinstance(thing, torch.Generator):
        thing.set_state(state)
    else:
        thing.load_state_dict(state)


def _flatten(value, name, tensors):
    """JSON for any nest of dictionaries, lists, tensors and plain values; tensors move to `tensors` by name."""
    if isinstance(value, torch.Tensor):
        # A copy: tied matrices share memory, which the file format refuses.
        tensors[name] = value.detach().to("cpu", copy=True)
        return {"tensor": name}
    if isinstance(value, dict):
        # Pairs, since an optimizer's keys are numbers, which JSON would turn into text.
        return {"pairs": [[key, _flatten(item, f"{name}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_flatten(item, f"{name}.{index}", tensors) for index, item in enumerate(value)]
        return {"tuple" if isinstance(value, tuple) else "list": items}
    return {"value": value}


def _unflatten(skeleton, tensors):
    ((kind, inner),) = skeleton.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "pairs":
        return {key: _unflatten(item, tensors) for key, item in inner}
    if kind in ("list", "tuple"):
        items = [_unflatten(item, tensors) for item in inner]
        return tuple(items) if kind == "tuple" else items
    return inner
