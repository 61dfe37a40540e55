"""lifeline.py: whatever a child started ends with its pipe, wherever it has moved to."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from plumbline import lifeline

# Starts a sleeper in a session of its own, as torchrun does with its ranks, and says its id.
LEAVES_SLEEPER = (
    "import subprocess, sys, time; "
    "p = subprocess.Popen(['sleep', '300'], start_new_session=True); print(p.pid, flush=True); "
)


@contextmanager
def started(*command, grace_seconds=1):
    read_end, write_end = os.pipe()
    runner = [sys.executable, "-I", lifeline.__file__, str(read_end), str(grace_seconds)]
    with subprocess.Popen([*runner, *command], pass_fds=[read_end], stdout=subprocess.PIPE, text=True) as process:
        os.close(read_end)
        try:
            yield process, write_end
        finally:
            process.kill()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 128 + 9)])
def test_it_passes_on_the_exit_status(script, status):
    with started("sh", "-c", script) as (process, write_end):
        assert process.wait(10) == status
        os.close(write_end)


def test_it_ends_the_command_when_the_pipe_closes():
    with started("sleep", "300") as (process, write_end):
        time.sleep(0.2)
        os.close(write_end)
        assert process.wait(10) == 128 + signal.SIGTERM


def test_it_kills_a_command_that_ignores_the_request():
    with started("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done") as (process, write_end):
        time.sleep(0.2)
        os.close(write_end)
        assert process.wait(10) == 128 + signal.SIGKILL


def test_it_ends_a_grandchild_in_a_session_of_its_own():
    with started(sys.executable, "-c", LEAVES_SLEEPER + "time.sleep(300)") as (process, write_end):
        sleeper = int(process.stdout.readline())
        assert is_alive(sleeper)
        os.close(write_end)
        process.wait(10)
        assert not is_alive(sleeper)


def test_it_ends_what_a_killed_command_leaves_behind():
    script = LEAVES_SLEEPER + "import os; os.kill(os.getpid(), 9)"
    with started(sys.executable, "-c", script) as (process, write_end):
        sleeper = int(process.stdout.readline())
        assert process.wait(10) == 128 + 9
        assert not is_alive(sleeper)
        os.close(write_end)


def test_it_tells_the_command_when_it_is_killed_itself():
    with started("sh", "-c", "echo $$; exec sleep 300") as (process, write_end):
        command = int(process.stdout.readline())
        process.kill()
        wait_until(lambda: not is_alive(command))
        os.close(write_end)
