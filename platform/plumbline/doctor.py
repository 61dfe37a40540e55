"""Checks of each part that Plumbline needs, each with what to do when it fails. Changes nothing."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import redis
from django.conf import settings
from django.core.management.base import CommandError
from django.db import Error as DatabaseError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from plumbline import up
from plumbline.celery import app

LEAST_FREE_BYTES = 2 * 1024**3
WORKERS = ("short@plumbline", "train@plumbline")
STARTER_FILES = ("config.json", "model.safetensors", "tokenizer.json", "manifest.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part's state in a sentence; `advice` says what to do where it is not well."""

    part: str
    ok: bool
    text: str
    advice: str = ""


def examine():
    """Yields a Finding per part, the cheap ones first."""
    for check in (
        check_python,
        check_data_dir,
        check_database,
        check_redis,
        check_web,
        check_workers,
        check_torch,
        check_starter,
    ):
        yield check()


def check_python():
    # An older Python never gets here: the executable refuses it.
    return Finding(part="Python", ok=True, text=f"{sys.version.split()[0]} at {sys.executable}")


def check_data_dir():
    # That it can be written was settled when the settings were read.
    folder = settings.PLUMBLINE_DATA_DIR
    free = shutil.disk_usage(folder).free
    text = _("%(folder)s, %(free).1f GB free") % {"folder": folder, "free": free / 1e9}
    advice = _("Checkpoints need room: free at least 2 GB, or set PLUMBLINE_DATA_DIR to a larger disk.")
    return Finding(part=_("data directory"), ok=free >= LEAST_FREE_BYTES, text=text, advice=advice)


def check_database():
    part = _("database")
    try:
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except DatabaseError as error:
        advice = _("Check that the server runs and that DATABASE_URL is right, or leave DATABASE_URL out.")
        return Finding(part=part, ok=False, text=str(error).strip(), advice=advice)
    if missing:
        text = _("%(vendor)s, %(count)d migrations missing") % {"vendor": connection.vendor, "count": len(missing)}
        advice = _("Run `plumbline up`, or `plumbline migrate`.")
        return Finding(part=part, ok=False, text=text, advice=advice)
    return Finding(part=part, ok=True, text=_("%(vendor)s, up to date") % {"vendor": connection.vendor})


def check_redis():
    url = settings.CELERY_BROKER_URL.replace("redis+socket://", "unix://")
    try:
        version = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2).info("server")["redis_version"]
    except (redis.RedisError, OSError):
        return Finding(part="Redis", ok=False, text=_("does not answer"), advice=redis_advice())
    return Finding(part="Redis", ok=True, text=_("version %(version)s answers") % {"version": version})


def redis_advice():
    if not settings.REDIS_EMBEDDED:
        return _("Start the server that REDIS_URL names, or unset REDIS_URL to use the one that `plumbline up` starts.")
    try:
        up.find_redis_server()
    except CommandError as error:
        return str(error)
    return _("Start Plumbline with `plumbline up`; it starts its own Redis.")


def check_web():
    part = _("web server")
    status = up.read_status()
    if status is None:
        return Finding(part=part, ok=False, text=_("is not running"), advice=_("Start it with `plumbline up`."))
    ok = up.is_answering(status["address"])
    text = _("answers at %(address)s") if ok else _("does not answer at %(address)s")
    advice = _("Read %(log)s.") % {"log": settings.PLUMBLINE_DATA_DIR / "logs" / "web.log"}
    return Finding(part=part, ok=ok, text=text % {"address": status["address"]}, advice=advice)


def check_workers():
    part = _("workers")
    try:
        replies = app.control.ping(timeout=2)
    except (redis.RedisError, OperationalError, OSError):
        replies = []
    alive = {name for reply in replies for name in reply}
    missing = [name for name in WORKERS if name not in alive]
    if missing:
        text = _("no answer from %(names)s") % {"names": ", ".join(missing)}
        advice = _("Start them with `plumbline up`; if it runs already, read the logs in %(logs)s.")
        return Finding(part=part, ok=False, text=text, advice=advice % {"logs": settings.PLUMBLINE_DATA_DIR / "logs"})
    return Finding(part=part, ok=True, text=", ".join(sorted(alive)))


def check_torch():
    # In a process of its own, as the engine runs: the Django side never imports torch.
    script = "import json, torch; print(json.dumps([torch.__version__, torch.cuda.device_count()]))"
    try:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return Finding(
            part="torch", ok=False, text=_("did not load in two minutes"), advice=_("Is the disk overloaded?")
        )
    if done.returncode != 0:
        text = (done.stderr.strip().splitlines() or [_("does not load")])[-1]
        advice = _("Install it again: make clean, then make run; or pip install torch==2.13.0.")
        return Finding(part="torch", ok=False, text=text, advice=advice)
    version, devices = json.loads(done.stdout)
    text = _("%(version)s with %(devices)d GPUs") if devices else _("%(version)s on the CPU")
    return Finding(part="torch", ok=True, text=text % {"version": version, "devices": devices})


def check_starter():
    part = _("starter model")
    folder = Path(find_spec("training").submodule_search_locations[0]) / "starter"
    missing = [name for name in STARTER_FILES if not (folder / name).is_file()]
    if missing:
        text = _("%(folder)s lacks %(names)s") % {"folder": folder, "names": ", ".join(missing)}
        advice = _("Install Plumbline again; the demo cannot start without it.")
        return Finding(part=part, ok=False, text=text, advice=advice)
    return Finding(part=part, ok=True, text=str(folder))
