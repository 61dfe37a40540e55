"""The product as its user runs it, for benchmarks: `plumbline up` on a data directory and port of its own."""

from __future__ import annotations

import collections
import contextlib
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
READY_SECONDS = 300
SIGN_IN_LINK = re.compile(r"Sign in as admin.*?(http://\S+)")
SAMPLE_SECONDS = 0.5
# What a process of the product is, by a word of its command line; the first that fits.
KINDS = (("training.engine", "engine"), ("granian", "web"), ("celery", "worker"), ("reconcile", "reconciler"))


class Product:
    """A running `plumbline up`, with the demo. Use it in a with statement: the end stops it and removes its data."""

    def __init__(self, *, demo=True, environ=None):
        # So that the with statement ends also when the benchmark is asked to stop.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped."))
        self.data_dir = Path(tempfile.mkdtemp(prefix="plumbline-benchmark-"))
        self.environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(self.data_dir), **(environ or {})}
        self.options = ["--demo"] if demo else []
        self.address = f"http://127.0.0.1:{free_port()}"
        self.output_path = self.data_dir / "up.out"

    def __enter__(self):
        started = time.monotonic()
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                self.command("up", *self.options, "--port", self.address.rpartition(":")[2]),
                env=self.environ,
                cwd=self.data_dir,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        self.watch = Watch(self.process.pid)
        self.watch.start()
        try:
            self.sign_in_link = self.wait_for_sign_in_link()
            self.get("/account/login/")
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.monotonic() - started
        return self

    def __exit__(self, *error):
        self.stop()

    def command(self, *arguments):
        return [sys.executable, "-m", "plumbline", *arguments]

    def wait_for_sign_in_link(self):
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := SIGN_IN_LINK.search(self.output_path.read_text()):
                return found[1]
            time.sleep(0.02)
        sys.exit(f"The product did not start:\n{self.output_path.read_text()}")

    def get(self, path):
        httpx.get(self.address + path, trust_env=False, timeout=30).raise_for_status()

    def run(self, *arguments):
        """What a `plumbline` command on the same data prints; the benchmark ends where it fails."""
        ended = subprocess.run(self.command(*arguments), env=self.environ, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(f"plumbline {' '.join(arguments)} failed:\n{ended.stdout}{ended.stderr}")
        return ended.stdout.strip()

    def api(self):
        """An HTTP client of the API, as admin."""
        headers = {"Authorization": f"Bearer {self.run('token', 'admin')}"}
        return httpx.Client(base_url=f"{self.address}/api/v1/", headers=headers, trust_env=False, timeout=60)

    def stop(self):
        self.watch.over.set()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        shutil.rmtree(self.data_dir, ignore_errors=True)


class Watch(threading.Thread):
    """Watches a process and all its descendants.

    peaks: {kind: bytes}, the highest sum of the resident memory of that kind's processes.
    engine_seconds: {process id: (stage, seconds)} of processor time, which other work on the machine hardly changes.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid = pid
        self.over = threading.Event()
        self.peaks = {}
        self.engine_seconds = {}

    def run(self):
        while not self.over.wait(SAMPLE_SECONDS):
            sums = collections.Counter()
            for process in descendants(self.pid):
                sums[process.kind] += process.resident_bytes
                if process.kind == "engine":
                    self.engine_seconds[process.pid] = (process.stage, process.cpu_seconds)
            sums["all"] = sum(sums.values())
            for kind, size in sums.items():
                self.peaks[kind] = max(size, self.peaks.get(kind, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    pid: int
    parent: int
    command: str
    resident_bytes: int
    cpu_seconds: float  # user and system, all threads

    @property
    def kind(self):
        fits = (name for word, name in KINDS if word in self.command and "lifeline.py" not in self.command)
        return next(fits, "other")

    @property
    def stage(self):
        return self.command.partition("training.engine ")[2].split(" ")[0]


def descendants(pid):
    """A process and all below it."""
    processes = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            processes[int(folder.name)] = Process(
                pid=int(folder.name),
                parent=int(fields[1]),
                command=(folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"),
                resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
                cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            )
    for process in processes.values():
        above = process.pid
        while above != pid and above in processes:
            above = processes[above].parent
        if above == pid:
            yield process


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def describe_machine():
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} cores, Python {platform.python_version()}; load before (1, 5, 15 min): {load}"


def print_table(rows):
    """rows: (what, figure, …, target) of strings; figures stand on the right of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for what, *figures, target in rows:
        cells = [f"{what:{widths[0]}}"] + [f"{one:>{width}}" for one, width in zip(figures, widths[1:-1], strict=True)]
        print("  ".join([*cells, target]).rstrip())
