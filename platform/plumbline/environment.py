"""Readers for the values that settings.py takes from the environment.

Each names the variable, the value and the rule when it refuses one. Standard library and Django's exception only.
"""

import contextlib
import hashlib
import os
import secrets
import sys
import tempfile
import zoneinfo
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

MINIMUM_SECRET_KEY_LENGTH = 50
ENVIRONMENTS = ("production", "development")
DATA_SUBFOLDERS = ("snapshots", "runs", "checkpoints", "uploads", "logs", "redis", "static")


def read_choice(environ, name, choices, default):
    value = environ.get(name, default)
    if value not in choices:
        raise ImproperlyConfigured(f"{name}={value!r} is not known; choose one of: {', '.join(choices)}.")
    return value


def read_bool(environ, name):
    value = environ.get(name, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ImproperlyConfigured(f"{name}={environ[name]!r} is neither yes nor no; set it to 1 or 0, or leave it out.")


def read_count(environ, name, default):
    """A whole number from 0."""
    value = environ.get(name, "").strip()
    if value and not (value.isdecimal() and len(value) <= 9):
        raise ImproperlyConfigured(f"{name}={environ[name]!r} must be a whole number from 0, such as {default}.")
    return int(value) if value else default


def read_time_zone(environ):
    """The zone in which days begin, such as Europe/Zurich."""
    name = environ.get("PLUMBLINE_TIME_ZONE", "").strip() or "UTC"
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ImproperlyConfigured(
            f"PLUMBLINE_TIME_ZONE={name!r} is no time zone; name one such as Europe/Zurich or America/Los_Angeles."
        ) from error
    return name


def read_data_dir(environ):
    """The data directory with its subfolders, made if missing; by default a folder of the user's."""
    configured = environ.get("PLUMBLINE_DATA_DIR", "")
    path = Path(configured).expanduser().absolute() if configured else default_data_dir(environ)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in DATA_SUBFOLDERS:
            (path / name).mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data directory {path} cannot be written ({error.strerror}). "
            "Make it writable, or set PLUMBLINE_DATA_DIR to a folder of yours."
        ) from error
    return path


def default_data_dir(environ):
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "plumbline"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "plumbline"
    return Path.home() / ".local" / "share" / "plumbline"


def read_secret_key(environ, data_dir, *, development):
    """SECRET_KEY, or else the one in the data directory, generated there on the first start."""
    key = environ.get("SECRET_KEY")
    if key is None:
        return stored_secret_key(data_dir / "secret_key")
    weak = len(key) < MINIMUM_SECRET_KEY_LENGTH or len(set(key)) < 5 or key.startswith("django-insecure-")
    if weak and not development:
        raise ImproperlyConfigured(
            f"SECRET_KEY is a default or too short ({len(key)} characters; at least {MINIMUM_SECRET_KEY_LENGTH} random "
            "ones are needed). Leave it out, and Plumbline makes one and keeps it in the data directory."
        )
    return key


def stored_secret_key(path):
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".secret_key-", delete=False) as draft:
            draft.write(secrets.token_urlsafe(64))
        # Linking fails where the name exists: of two first starts at once, both read the key of the one that won.
        with contextlib.suppress(FileExistsError):
            os.link(draft.name, path)
        os.unlink(draft.name)
    key = path.read_text().strip()
    if len(key) < MINIMUM_SECRET_KEY_LENGTH:
        raise ImproperlyConfigured(
            f"{path} holds a key of {len(key)} characters; at least {MINIMUM_SECRET_KEY_LENGTH} are needed. "
            "Delete the file, and a new key is made (everybody signs in again)."
        )
    return key


def read_allowed_hosts(environ, base_url, *, development):
    hosts = [host.strip() for host in environ.get("ALLOWED_HOSTS", "").split(",") if host.strip()]
    if "*" in hosts and not development:
        raise ImproperlyConfigured(
            "ALLOWED_HOSTS=* lets anybody forge the address in links; name the hosts, separated by commas, "
            "or set PLUMBLINE_ENV=development on a machine of your own."
        )
    own = ["localhost", "127.0.0.1", "[::1]"]
    return list(dict.fromkeys([*hosts, *own, *([urlsplit(base_url).hostname] if base_url else [])]))


def read_base_url(environ):
    """The address that people type, such as https://rank.example.org; empty when it is this machine's own."""
    value = environ.get("PLUMBLINE_BASE_URL", "").rstrip("/")
    parts = urlsplit(value)
    if value and (parts.scheme not in ("http", "https") or not parts.hostname or parts.path or parts.query):
        raise ImproperlyConfigured(
            f"PLUMBLINE_BASE_URL={value!r} must be a scheme and a host without a path, such as https://rank.example.org."
        )
    return value


# IMMEDIATE: a transaction that reads and then writes would otherwise fail at once when another writes in between.
# FULL: an acknowledged ranking survives a power cut.
SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=FULL;",
}


def read_database(environ, data_dir):
    """Django's DATABASES["default"] from DATABASE_URL; SQLite in the data directory without it."""
    url = environ.get("DATABASE_URL", "")
    if not url:
        return sqlite_database(data_dir / "db.sqlite3")
    parts = urlsplit(url)
    if parts.scheme == "sqlite" and parts.path.strip("/"):
        return sqlite_database(Path(unquote(parts.path[1:])))
    name = unquote(parts.path.lstrip("/"))
    if parts.scheme not in ("postgres", "postgresql") or not name:
        # Never the value itself: it may carry a password.
        raise ImproperlyConfigured(
            "DATABASE_URL must read postgresql://USER:PASSWORD@HOST:PORT/NAME or sqlite:///PATH; "
            f"it has the scheme {parts.scheme!r} and the name {name!r}. Leave it out to use SQLite."
        )
    try:
        port = parts.port
    except ValueError as error:
        raise ImproperlyConfigured("DATABASE_URL has a port that is not a number between 0 and 65535.") from error
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(port or options.pop("port", "") or ""),
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }


def sqlite_database(path):
    return {
        "ENGINE": "plumbline.sqlite",
        "NAME": path,
        "OPTIONS": SQLITE_OPTIONS,
        "CONN_MAX_AGE": None,
        # On a file, as in production: an in-memory test database is shared by threads without real locking.
        "TEST": {"NAME": str(path.with_name("test.sqlite3"))},
    }


def redis_socket(data_dir):
    """The socket of the embedded Redis: short (a socket path has at most 107 bytes) and the same for every process."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    candidate = runtime / f"plumbline-{os.getuid()}-{digest}" / "redis.sock"
    return candidate if len(os.fsencode(candidate)) <= 100 else Path("/tmp", *candidate.parts[-2:])


def read_redis_url(environ, data_dir):
    """REDIS_URL in the form that Celery reads; the embedded Redis of `plumbline up` without it."""
    url = environ.get("REDIS_URL", "")
    if not url:
        return f"redis+socket://{redis_socket(data_dir)}"
    if url.startswith("unix://"):
        return "redis+socket://" + url.removeprefix("unix://")
    if not url.startswith(("redis://", "rediss://", "redis+socket://")):
        raise ImproperlyConfigured(
            f"REDIS_URL must start with redis://, rediss:// or unix://, not {url.split('://')[0]!r}. "
            "Leave it out, and `plumbline up` starts a Redis of its own."
        )
    return url
