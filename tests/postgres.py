"""A PostgreSQL server for tests: started in a temporary folder, reached by unix socket, gone afterwards."""

import glob
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass


class PostgresMissing(Exception):
    """This machine has no PostgreSQL server programs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresServer:
    url: str
    folder: str
    pg_ctl: list[str]
    psql: list[str]  # a command that reaches the server's one database

    def stop(self):
        subprocess.run([*self.pg_ctl, "-m", "immediate", "stop"], check=False, capture_output=True, cwd=self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def start_postgres(*, durable=False):
    """durable: what it has acknowledged survives a power cut, as it does by default; tests need no such thing."""
    programs = find_programs()
    # Short: the socket's path must fit in 107 bytes.
    folder = tempfile.mkdtemp(prefix="plpg-", dir="/tmp")
    run_as = []
    if os.getuid() == 0:
        # initdb refuses root.
        run_as = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, "nobody", "nogroup")
    data = os.path.join(folder, "data")
    run(
        [
            *run_as,
            f"{programs}/initdb",
            "-D",
            data,
            "-U",
            "plumbline",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "--no-sync",
        ],
        cwd=folder,
    )
    pg_ctl = [*run_as, f"{programs}/pg_ctl", "-D", data, "-w"]
    options = f"-c listen_addresses='' -c unix_socket_directories={folder}"
    options += "" if durable else " -c fsync=off -c synchronous_commit=off"
    run([*pg_ctl, "-l", os.path.join(folder, "log"), "-o", options, "start"], cwd=folder)
    url = f"postgresql://plumbline@/postgres?host={folder}"
    psql = [f"{programs}/psql", url]
    return PostgresServer(url=url, folder=folder, pg_ctl=pg_ctl, psql=psql)


def find_programs():
    found = shutil.which("initdb")
    if found:
        return os.path.dirname(os.path.realpath(found))  # a link may lie apart from the other programs
    versions = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not versions:
        raise PostgresMissing("no PostgreSQL server here: apt-get install postgresql")
    return os.path.dirname(versions[-1])


def run(command, *, cwd):
    # To files, not pipes: the server that pg_ctl leaves behind would keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        result = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, check=False)
        if result.returncode != 0:
            output.seek(0)
            raise RuntimeError(f"{' '.join(command)} failed:\n{output.read().decode(errors='replace')}")
