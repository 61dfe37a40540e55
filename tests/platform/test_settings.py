"""Settings are refused at start, each with a sentence that says what to do."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from plumbline import environment
from plumbline.refusals import WithoutTraceback

GOOD_KEY = "k3y-" + "abcdefghijklmnopqrstuvwxyz0123456789" * 2


def start(tmp_path, **environ):
    """Runs a command that reads the settings, in production unless told otherwise."""
    base = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    environ = {**base, "PLUMBLINE_DATA_DIR": str(tmp_path / "data"), **environ}
    command = [sys.executable, "-m", "plumbline", "check"]
    return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path, check=False)


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"SECRET_KEY": "short"}, "SECRET_KEY is a default or too short (5 characters"),
        ({"SECRET_KEY": "django-insecure-" + GOOD_KEY}, "SECRET_KEY is a default or too short"),
        ({"SECRET_KEY": "x" * 80}, "SECRET_KEY is a default or too short"),
        ({"DEBUG": "1"}, "DEBUG=1 shows the program's insides"),
        ({"DEBUG": "perhaps"}, "DEBUG='perhaps' is neither yes nor no"),
        ({"ALLOWED_HOSTS": "*"}, "ALLOWED_HOSTS=* lets anybody forge"),
        ({"PLUMBLINE_ENV": "staging"}, "PLUMBLINE_ENV='staging' is not known; choose one of: production, development"),
        ({"DATABASE_URL": "mysql://u:hunter2@h/n"}, "DATABASE_URL must read postgresql://"),
        ({"DATABASE_URL": "postgresql://u:hunter2@h:port/n"}, "DATABASE_URL has a port that is not a number"),
        ({"REDIS_URL": "amqp://localhost"}, "REDIS_URL must start with redis://"),
        (
            {"PLUMBLINE_BASE_URL": "rank.example.org"},
            "PLUMBLINE_BASE_URL='rank.example.org' must be a scheme and a host",
        ),
        ({"PLUMBLINE_TIME_ZONE": "Mars/Base"}, "PLUMBLINE_TIME_ZONE='Mars/Base' is no time zone"),
        ({"PLUMBLINE_LOG_LEVEL": "LOUD"}, "PLUMBLINE_LOG_LEVEL='LOUD' is not known"),
        ({"PLUMBLINE_DATA_DIR": "/proc/nowhere"}, "The data directory /proc/nowhere cannot be written"),
    ],
)
def test_it_refuses_a_bad_value_with_a_sentence(tmp_path, environ, sentence):
    result = start(tmp_path, **environ)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert "hunter2" not in result.stderr


@pytest.mark.parametrize("environ", [{}, {"SECRET_KEY": GOOD_KEY, "ALLOWED_HOSTS": "rank.example.org"}])
def test_it_starts_in_production_with_nothing_or_good_values(tmp_path, environ):
    assert start(tmp_path, **environ).returncode == 0


def test_it_allows_loose_values_in_development(tmp_path):
    result = start(tmp_path, PLUMBLINE_ENV="development", DEBUG="1", ALLOWED_HOSTS="*", SECRET_KEY="dev")
    assert result.returncode == 0, result.stderr


def test_it_makes_a_secret_key_once_and_keeps_it_private(tmp_path):
    first = environment.read_secret_key({}, tmp_path, development=False)
    assert len(first) >= environment.MINIMUM_SECRET_KEY_LENGTH
    assert environment.read_secret_key({}, tmp_path, development=False) == first
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret_key"]


def test_it_refuses_a_truncated_secret_key_file(tmp_path):
    (tmp_path / "secret_key").write_text("abc")
    with pytest.raises(ImproperlyConfigured, match="holds a key of 3 characters"):
        environment.read_secret_key({}, tmp_path, development=False)


def test_it_reads_a_postgresql_address():
    url = "postgresql://ann:p%40ss@db.example.org:5433/plumbline?sslmode=require"
    database = environment.read_database({"DATABASE_URL": url}, Path("/data"))
    assert (database["USER"], database["PASSWORD"], database["HOST"]) == ("ann", "p@ss", "db.example.org")
    assert (database["PORT"], database["NAME"]) == ("5433", "plumbline")
    assert database["OPTIONS"] == {"sslmode": "require"}


def test_it_reads_a_postgresql_socket_folder():
    database = environment.read_database({"DATABASE_URL": "postgresql://ann@/plumbline?host=/run/pg"}, Path("/data"))
    assert database["HOST"] == "/run/pg"


def test_it_keeps_the_redis_socket_short_for_any_data_directory():
    path = environment.redis_socket(Path("/" + "deep/" * 60))
    assert len(str(path)) <= 107
    assert path != environment.redis_socket(Path("/other"))


def test_it_marks_cookies_secure_behind_https(tmp_path):
    script = "from django.conf import settings as s; print(s.SESSION_COOKIE_SECURE, s.CSRF_TRUSTED_ORIGINS)"
    environ = {
        **os.environ,
        "PLUMBLINE_DATA_DIR": str(tmp_path),
        "PLUMBLINE_BASE_URL": "https://rank.example.org",
    }
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ, check=True)
    assert done.stdout.strip() == "True ['https://rank.example.org']"


@pytest.mark.django_db
def test_it_writes_sqlite_durably_and_beside_readers():
    from django.db import connection

    with connection.cursor() as cursor:
        assert cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert cursor.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert connection.transaction_mode == "IMMEDIATE"


def test_a_command_before_the_first_migration_says_what_to_do(tmp_path):
    environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(tmp_path)}
    environ.pop("DATABASE_URL", None)
    command = [sys.executable, "-m", "plumbline", "demo"]
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "The database has no tables yet" in done.stderr and "Start `plumbline up`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_it_names_its_own(tmp_path, arguments):
    environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "plumbline", *arguments]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    for name in ("up", "doctor", "demo", "simulate", "import_prompts", "snapshot", "export", "signin_link", "token"):
        assert re.search(rf"^  {name} +[A-Z].*\.$", done.stdout, re.M), name
    assert "dbshell" not in done.stdout


def test_a_refused_request_is_logged_without_a_traceback():
    filter = WithoutTraceback()
    for status, has_traceback in ((403, False), (404, False), (500, True)):
        record = logging.LogRecord("django.request", logging.WARNING, "", 1, "Forbidden", (), (ValueError, None, None))
        record.status_code = status
        assert filter.filter(record)
        assert bool(record.exc_info) == has_traceback
    plain = logging.LogRecord("plumbline", logging.ERROR, "", 1, "Broken", (), (ValueError, None, None))
    assert filter.filter(plain) and plain.exc_info


@pytest.mark.postgres
def test_it_migrates_postgresql(postgres_url, tmp_path):
    environ = {**os.environ, "PLUMBLINE_DATA_DIR": str(tmp_path), "DATABASE_URL": postgres_url}
    command = [sys.executable, "-m", "plumbline"]
    subprocess.run([*command, "migrate", "-v", "0"], env=environ, check=True, capture_output=True)
    done = subprocess.run([*command, "migrate", "--check"], env=environ, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.django_db
def test_it_has_a_migration_for_every_model():
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


ROOT = Path(__file__).resolve().parents[2]


def test_it_documents_every_variable_that_it_reads():
    sources = "".join(
        (ROOT / "platform" / "plumbline" / name).read_text() for name in ("environment.py", "settings.py")
    )
    names = set(re.findall(r'environ(?:\.get\(|\[|, )"([A-Z_]+)"', sources))
    assert {"PLUMBLINE_ENV", "DATABASE_URL", "DEBUG"} <= names
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert sorted(name for name in names if name not in operations) == []
