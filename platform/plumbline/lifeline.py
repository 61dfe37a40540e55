"""lifeline.py FD GRACE_SECONDS COMMAND…: runs COMMAND, and ends all of it when the pipe FD closes.

`plumbline up` starts every child through this. The pipe's other end is held by `up` alone, so the kernel closes it
however `up` ends, kill -9 included. What COMMAND starts is found even where it moved to a session of its own
(torchrun's ranks, Celery's pool): this process is their subreaper, so an orphan becomes its child. When COMMAND ends
by itself, what it left behind is ended too, and its exit status becomes ours.

Standard library only and no Django: one stays beside every child for as long as that runs.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_SECONDS = 0.05


def prctl(option, argument):
    """Linux's prctl; elsewhere nothing, and the pipe alone must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0)


def run_with_lifeline(lifeline, grace_seconds, command):
    """The command's exit status as a shell would give it (128 + signal)."""
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    stop_requested = False

    def request_stop(*_):
        nonlocal stop_requested
        stop_requested = True

    signal.signal(signal.SIGTERM, request_stop)
    child = subprocess.Popen(
        command,
        start_new_session=True,
        # Should this process be killed, the command hears of it at least.
        preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM),
        close_fds=True,
    )
    while child.poll() is None and not stop_requested:
        # SIGCHLD does not interrupt select in Python, hence the timeout.
        readable, _, _ = select.select([lifeline], [], [], 0.2)
        stop_requested = stop_requested or bool(readable)
        reap_orphans(child.pid)
    if child.poll() is None:
        child.terminate()
        deadline = time.monotonic() + grace_seconds
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            reap_orphans(child.pid)
    end_descendants(child)
    status = child.wait()
    return 128 - status if status < 0 else status


def end_descendants(child, *, grace_seconds=1.0):
    """SIGTERM to everything below us, then SIGKILL until nothing is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGTERM)
    signal_all(descendants(os.getpid()), signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (alive := descendants(os.getpid())) and time.monotonic() < deadline + 5:
        if time.monotonic() > deadline:
            signal_all(alive, signal.SIGKILL)
        child.poll()
        reap_orphans(child.pid)
        time.sleep(POLL_SECONDS)


def signal_all(pids, number):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def descendants(root):
    """Ids of all processes below `root`, nearest first; zombies are left out. Empty where there is no /proc."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name stands in brackets and may hold spaces and brackets of its own.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                children.setdefault(int(parent), []).append(int(stat.parent.name))
    found, queue = [], [root]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return found


def reap_orphans(child_pid):
    """Collects ended orphans that became ours; the command itself is Popen's to collect."""
    with contextlib.suppress(ChildProcessError):
        while True:
            # WNOWAIT first, to leave the command's own status where Popen finds it.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None or ended.si_pid == child_pid:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)


if __name__ == "__main__":
    sys.exit(run_with_lifeline(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
