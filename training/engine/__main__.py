"""python -m training.engine STAGE --config FILE|PRESET --run-dir DIR [--lifeline] [section.key=value ...]
python -m training.engine inspect --policy DIR ... (inspection.py)

Runs one stage in a run directory (rundir.py says what it leaves there). Run again with the same directory, it goes on
from the newest whole checkpoint. SIGTERM and Ctrl-C write a checkpoint at the next step and exit with 75.
run.devices=N starts N ranks under torchrun (launch.py); torchrun may also be used by hand.
"""

import argparse
import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

# Before torch is imported. Threads that spin while they wait slow a run tenfold where another process is busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from training.engine import config, launch, rundir
from training.engine.launch import is_main, is_rank

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MODULES = {stage: stage for stage in rundir.STAGES} | {"tokenizer": "vocabulary"}


def main(arguments=None):
    """Runs the stage; returns the exit code that rundir.py names."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["inspect"]:
        return inspect(arguments[1:])
    options = parse(arguments)
    if options.lifeline:
        held = (os.dup(0),)  # ranks get a standard input of their own
        threading.Thread(target=die_with_supervisor, args=held, name="lifeline", daemon=True).start()
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        settings = config.load(options.config, options.overrides)
        if settings.run.devices > 1 and not is_rank():
            run_dir = rundir.create(options.run_dir, config.resolved(settings))
            return launch.start_ranks(options.stage, run_dir, settings.run.devices)
        if is_main():
            rundir.create(options.run_dir, config.resolved(settings))
        return run(options.stage, settings, Path(options.run_dir), stop)
    except config.ConfigError as error:
        return complain(options.run_dir, str(error))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        print(f"The run directory{where} cannot be written ({error.strerror}).", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(stage, settings, run_dir, stop):
    """Imports the stage and runs it; every known fault becomes one sentence and an exit code."""
    from training.engine import distributed, memory
    from training.engine.checkpoint import CheckpointError
    from training.engine.data import DataError
    from training.engine.progress import GuardStopped, Interrupted, newest_checkpoint
    from training.engine.tokenizer import TokenizerError

    module = importlib.import_module(f"training.engine.{MODULES[stage]}")
    try:
        if is_rank() and stage not in launch.SHARED_STAGES:
            raise config.ConfigError(f"The stage {stage} takes one process; set run.devices=1, or leave torchrun out.")
        # What this directory has is newer: it went on from inputs.resume.
        resume = newest_checkpoint(run_dir) or settings.inputs.resume
        module.train(settings, run_dir, resume=resume, should_stop=stop.is_set)
    except Interrupted as error:
        return say_stopped(run_dir, "interrupted", str(error), rundir.EXIT_INTERRUPTED)
    except GuardStopped as error:
        return say_stopped(run_dir, "guard", str(error), rundir.EXIT_GUARD)
    except (config.ConfigError, DataError, CheckpointError, TokenizerError) as error:
        return say_stopped(run_dir, "error", str(error), rundir.EXIT_USAGE)
    except Exception as error:
        if memory.ran_out(error):
            return say_stopped(run_dir, "error", memory.advice(stage, settings, error), rundir.EXIT_USAGE)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            sentence = f"There is no room left to write {error.filename or run_dir}; free some disk space, then resume."
            return say_stopped(run_dir, "error", sentence, 1)
        traceback.print_exc()
        sentence = f"The stage {stage} failed with {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return say_stopped(run_dir, "error", sentence, 1)
    distributed.leave()
    return rundir.EXIT_OK


def inspect(arguments):
    """The command that looks at one answer; it has no run directory."""
    from training.engine import inspection
    from training.engine.checkpoint import CheckpointError
    from training.engine.tokenizer import TokenizerError

    try:
        inspection.main(arguments)
    except (config.ConfigError, CheckpointError, TokenizerError) as error:
        print(error, file=sys.stderr)
        return rundir.EXIT_USAGE
    return rundir.EXIT_OK


def parse(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m training.engine", description="Runs one stage of training in a run directory."
    )
    parser.add_argument("stage", choices=rundir.STAGES, help="what to run")
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE",
        help="a TOML or JSON file, or a preset: " + ", ".join(config.presets()),
    )
    parser.add_argument("--run-dir", required=True, metavar="DIR", help="where the run leaves what it makes")
    parser.add_argument(
        "--lifeline", action="store_true", help="standard input is held by a supervisor: end when it closes"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="settings that differ from the file's"
    )
    return parser.parse_intermixed_args(arguments)


def die_with_supervisor(pipe):
    """Ends the process at once when the pipe closes: its holder is gone, and nobody would end us."""
    while True:
        try:
            if not os.read(pipe, 4096):
                break
        except OSError:
            break
    os._exit(rundir.EXIT_ORPHANED)


def complain(run_dir, sentence):
    """A setting is wrong. The run directory may not exist yet; if it can be made, it says so too."""
    try:
        os.makedirs(run_dir, exist_ok=True)
        return say_stopped(run_dir, "error", sentence, rundir.EXIT_USAGE)
    except OSError:
        print(sentence, file=sys.stderr)
        return rundir.EXIT_USAGE


def say_stopped(run_dir, reason, sentence, code):
    """Writes the event `stopped` and the sentence on standard error; returns the exit code.

    Ranks all meet the same fault, and the first speaks for them. A fault of one rank only (code 1) is its own to tell.
    """
    if is_main() or code == 1:
        print(sentence, file=sys.stderr)
        last = [event["step"] for event in rundir.read_events(run_dir)[0]][-1:]
        facts = {"reason": reason, "message": sentence, "exit_code": code}
        with contextlib.suppress(OSError):  # a full disk: the sentence and the exit code have said it
            rundir.append_event(run_dir, "stopped", step=last[0] if last else 0, **facts)
    return code


def end(code):
    """Ends the process. A rank that stopped leaves at once: gloo's threads abort where another rank went before."""
    if code and is_rank():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    end(main())
