"""`plumbline up` as a person meets it: real processes, a real Redis, signals."""

import concurrent.futures
import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from django.core.management.base import CommandError

from plumbline import up
from plumbline.management.commands.up import advice_on_names
from tests.running_up import RunningUp, end, pids_with, processes_of, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One for the tests that leave it running."""
    running = RunningUp(tmp_path_factory.mktemp("up") / "data")
    try:
        yield running.wait_until_ready()
    finally:
        end(running)


@pytest.fixture
def start_up(tmp_path):
    """start_up("--port", "9000") -> a RunningUp, each on the same data directory; all are ended after the test."""
    started = []

    def start(*arguments):
        started.append(RunningUp(tmp_path / "data", *arguments))
        return started[-1]

    yield start
    for running in started:
        end(running)


def test_it_says_when_other_machines_are_refused(settings):
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
    assert "PLUMBLINE_BASE_URL or ALLOWED_HOSTS" in advice_on_names("0.0.0.0")
    assert advice_on_names("127.0.0.1") is None
    settings.ALLOWED_HOSTS = ["rank.example.org", "localhost"]
    assert advice_on_names("0.0.0.0") is None


def test_it_serves_pages_with_hashed_styles(running):
    status, page = running.get("/account/login/")
    assert status == 200
    style = re.search(r'href="(/static/css/[a-z]+\.[0-9a-f]{12}\.css)"', page)[1]
    assert running.get(style)[0] == 200


def test_it_prints_a_link_that_signs_the_first_admin_in(running):
    link = re.search(r"/account/sign-in/\S+/", running.output)[0]
    assert "Welcome, admin" in running.get(link)[1]


def test_it_serves_several_clients_at_once(running):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: running.get("/account/login/")[0], range(64)))
    assert statuses == [200] * 64


def test_it_satisfies_the_doctor(running):
    # The workers are ready a little after the pages.
    wait_until(lambda: "ok   workers" in running.doctor().stdout, 60)
    report = running.doctor().stdout
    for part in ("Python", "data directory", "database", "Redis", "web server", "workers", "torch"):
        assert f"ok   {part}: " in report, report


def test_it_refuses_a_second_one_on_the_same_data(running):
    second = RunningUp(running.data_dir)
    status = second.process.wait(30)
    assert status == 1
    assert f"Plumbline is already running on {running.data_dir} at {running.address}" in second.output
    assert "Traceback" not in second.output
    assert running.get("/healthy/")[0] == 200


def test_it_starts_a_killed_worker_again_and_leaves_none_of_its_children(running):
    old = pids_with(running.data_dir, "-Q train")
    main = next(
        pid
        for pid in old
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] not in {str(other) for other in old}
    )
    os.kill(main, signal.SIGKILL)
    wait_until(lambda: not old & set(processes_of(running.data_dir)), 10)
    wait_until(lambda: "worker-train ended with status 137; starting it again in 0.5 s" in running.output, 10)
    wait_until(lambda: pids_with(running.data_dir, "-Q train"), 10)


def test_it_starts_a_killed_web_server_again(running):
    for pid in pids_with(running.data_dir, "granian"):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "web ended with status" in running.output, 10)
    wait_until(lambda: up.is_answering(running.address), 30)


def test_it_starts_a_killed_redis_again_and_the_workers_find_it(running):
    (redis,) = pids_with(running.data_dir, "redis-server")
    os.kill(redis, signal.SIGKILL)
    wait_until(lambda: pids_with(running.data_dir, "redis-server") - {redis}, 10)
    wait_until(lambda: "ok   workers" in running.doctor().stdout, 60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_all_that_it_started(start_up, number):
    running = start_up().wait_until_ready()
    started = time.monotonic()
    running.process.send_signal(number)
    assert running.process.wait(15) == 0, running.output
    assert time.monotonic() - started < 10
    assert processes_of(running.data_dir) == {}
    assert "Traceback" not in running.output
    assert not (running.data_dir / "up.json").exists()


def test_it_leaves_no_orphan_when_killed_and_starts_again_at_once(start_up):
    killed = start_up().wait_until_ready()
    orphans = set(processes_of(killed.data_dir)) - {killed.process.pid}
    killed.process.kill()
    killed.process.wait()
    again = start_up()
    wait_until(lambda: not orphans & set(processes_of(killed.data_dir)), 10)
    again.wait_until_ready()
    assert again.get("/healthy/")[0] == 200


def test_it_stops_while_it_is_still_starting(start_up):
    starting = start_up()
    wait_until(lambda: pids_with(starting.data_dir, "redis-server"), 30)
    starting.process.send_signal(signal.SIGINT)
    assert starting.process.wait(20) == 0, starting.output
    assert processes_of(starting.data_dir) == {}
    assert "Traceback" not in starting.output


def test_it_says_that_a_port_is_in_use(start_up):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        running = start_up("--port", str(port))
        assert running.process.wait(30) == 1
    assert running.output.strip() == (
        f"CommandError: Port {port} on 127.0.0.1 is in use by another program; "
        f"choose another with --port, such as --port {port + 1}."
    )
    assert processes_of(running.data_dir) == {}


@pytest.mark.parametrize(
    ("host", "port", "sentence"),
    [
        ("127.0.0.1", 70_000, "--port 70000 is not a port"),
        ("203.0.113.7", 8000, "--host 203.0.113.7 is not an address of this machine"),
        ("no such host", 8000, "--host no such host is not an address of this machine"),
    ],
)
def test_it_refuses_an_impossible_address(host, port, sentence):
    with pytest.raises(CommandError, match=sentence):
        up.choose_port(host, port)


def test_it_says_what_to_install_where_there_is_no_redis(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(up.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CommandError, match=r"no redis-server to be had. Install one .* or set REDIS_URL"):
        up.find_redis_server()


def test_it_prefers_a_redis_on_the_path(monkeypatch, tmp_path):
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert up.find_redis_server() == str(program)


def test_it_refuses_a_socket_folder_that_is_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "socket").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CommandError, match="belongs to somebody else"):
        up.make_private_dir(tmp_path / "socket")


def test_it_keeps_logs_from_growing_without_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(up, "LARGEST_LOG_BYTES", 10)
    log = tmp_path / "web.log"
    log.write_text("x" * 11)
    up.rotate_log(log)
    assert not log.exists()
    assert (tmp_path / "web.log.1").stat().st_size == 11
