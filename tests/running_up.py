"""A real `plumbline up` under test: its processes, its output, its end."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from plumbline import environment

READY = re.compile(r"Plumbline is ready at (http://[^/]+)/ ")
# Not what `up` promises, which benchmarks/first_page.py measures: a machine busy with other work is no failure.
READY_SECONDS = 180


class RunningUp:
    """A `plumbline up` on a data directory and port of its own."""

    def __init__(self, data_dir, *arguments, **environ):
        self.data_dir = data_dir
        self.output_path = data_dir.with_name(f"{data_dir.name}-{time.monotonic_ns()}.out")
        environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(data_dir), "PLUMBLINE_ENV": "production", **environ}
        with self.output_path.open("wb") as output:
            command = [sys.executable, "-m", "plumbline", "up", "--port", "0", *arguments]
            self.process = subprocess.Popen(command, env=environ, stdout=output, stderr=subprocess.STDOUT)

    @property
    def output(self):
        return self.output_path.read_text()

    def wait_until_ready(self):
        wait_until(lambda: READY.search(self.output) or self.process.poll() is not None, READY_SECONDS)
        assert self.process.poll() is None, self.output
        self.address = READY.search(self.output)[1]
        wait_until(lambda: self.children(), 10)
        return self

    def children(self):
        try:
            return json.loads((self.data_dir / "up.json").read_text())["children"]
        except (OSError, ValueError):
            return {}

    def get(self, path):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.address + path, timeout=20) as answer:
            return answer.status, answer.read().decode()

    def command(self, *arguments):
        """Runs `plumbline ARGUMENTS` beside it, on the same data."""
        environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(self.data_dir), "PLUMBLINE_ENV": "production"}
        command = [sys.executable, "-m", "plumbline", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    def doctor(self):
        return self.command("doctor")

    def ask(self, sql, *parameters):
        """Rows of its database, read beside it."""
        address = f"file:{self.data_dir}/db.sqlite3?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=10)) as connection:
            return connection.execute(sql, parameters).fetchall()


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def processes_of(data_dir):
    """Ids and commands of all live processes that were started with this data directory."""
    found = {}
    # Redis writes its title over its environment, but the title names the socket; engines get no environment of ours,
    # but their run directory.
    socket_folder = environment.redis_socket(data_dir).parent.name
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ = (folder / "environ").read_bytes().split(b"\0")
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ours = f"PLUMBLINE_DATA_DIR={data_dir}".encode() in environ
            ours = ours or socket_folder in command or f"{data_dir}/" in command
            if ours and state not in "ZX":
                found[int(folder.name)] = command
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return found


def pids_with(data_dir, words):
    return {pid for pid, command in processes_of(data_dir).items() if words in command and "lifeline" not in command}


def end(running):
    if running.process.poll() is None:
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(30)
