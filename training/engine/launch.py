"""Several processes for one run: this process becomes torchrun, and its ranks run the stage.

torchrun gives its ranks sessions of their own, so no process group ends them all. Each rank's standard input is a pipe
that this process alone holds open, and a rank ends itself when it closes (--lifeline). This process in turn listens to
its own supervisor's pipe, so that the supervisor's end is every rank's end.
"""

import logging
import os
import sys
from pathlib import Path

from training.engine import rundir

SHARED_STAGES = ("pretrain", "sft", "reward_model", "ppo")
ROOT = Path(__file__).resolve().parents[2]


def is_rank():
    """Whether torchrun has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main():
    """Whether this process is the one that writes: alone, or the first rank."""
    return int(os.environ.get("RANK", "0")) == 0


def start_ranks(stage, run_dir, devices):
    """Runs the stage in `devices` ranks with the settings saved in the run directory; returns their exit code.

    torchrun itself has one code for every failure, so the ranks' code is read from their event `stopped`.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # A failed rank has said why in one sentence; torchrun's own report would bury it.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    written = rundir.read_events(run_dir)[1]
    hold_standard_input()
    # The working directory is no place to import from.
    os.environ |= {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    # torchrun would set 1, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    settings = str(run_dir / rundir.CONFIG)
    try:
        ours = ["training.engine", stage, "--config", settings, "--run-dir", str(run_dir), "--lifeline"]
        torchrun.main(["--standalone", f"--nproc-per-node={devices}", "--local-addr=127.0.0.1", "--module", *ours])
        return rundir.EXIT_OK
    except (ChildFailedError, SignalException):
        stopped = [event for event in rundir.read_events(run_dir, written)[0] if event["type"] == "stopped"]
        if stopped:
            return stopped[0]["exit_code"]  # the first: one rank's end makes the others fail
        print("The ranks ended before they could say why; the log above may tell more.", file=sys.stderr)
        return 1


def hold_standard_input():
    """Standard input, which the ranks inherit, becomes a pipe whose other end closes with this process."""
    read_end, _write_end = os.pipe()  # neither is inherited, but for the copy that becomes standard input
    os.dup2(read_end, 0)
    os.close(read_end)
