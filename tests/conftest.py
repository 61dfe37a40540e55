"""Fixtures for every test: the cast of people, a project, API clients, a PostgreSQL server, a browser's arguments."""

import os
import shutil
import tempfile

# Before Django reads its settings: tests never meet the data, the database or the broker of whoever runs them.
_data_dir = tempfile.mkdtemp(prefix="plumbline-tests-")
for _name in ("DATABASE_URL", "REDIS_URL", "DEBUG", "SECRET_KEY", "ALLOWED_HOSTS", "PLUMBLINE_BASE_URL"):
    os.environ.pop(_name, None)
os.environ["DJANGO_SETTINGS_MODULE"] = "plumbline.settings"
os.environ["PLUMBLINE_DATA_DIR"] = _data_dir
os.environ["PLUMBLINE_ENV"] = "development"
os.environ["PLUMBLINE_LOG_LEVEL"] = "WARNING"
# Playwright's fixtures run an event loop in the test's thread, which Django would take for an async view.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"

import django  # noqa: E402
import pytest  # noqa: E402
from django.conf import settings as django_settings  # noqa: E402

django.setup()
django_settings.CELERY_BROKER_URL = "memory://"
django_settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

REQUIRE_ALL = os.environ.get("PLUMBLINE_REQUIRE_ALL_TESTS") == "1"
PASSWORD = "correct horse battery staple"


def pytest_unconfigure(config):
    shutil.rmtree(_data_dir, ignore_errors=True)


def skip_or_fail(reason):
    """Skips a test for what this machine lacks, or fails it where everything is required (.ci/run)."""
    if REQUIRE_ALL:
        pytest.fail(reason + " (PLUMBLINE_REQUIRE_ALL_TESTS=1 turns this skip into a failure)")
    pytest.skip(reason)


@pytest.fixture
def make_user(db):
    """make_user("name", superuser=False) -> a User whose password is PASSWORD."""
    from plumbline.models import User

    def make(username, **fields):
        user = User(username=username, email=f"{username}@example.org", **fields)
        user.set_password(PASSWORD)
        user.save()
        return user

    return make


@pytest.fixture
def project(db):
    """An empty project named Stories; no demo content."""
    from annotation.models import Project

    return Project.objects.create(slug="stories", name="Stories")


@pytest.fixture
def make_member(make_user, project):
    """make_member("name", "annotator") -> a User with that role in `project`."""
    from annotation.models import Membership

    def make(username, role):
        user = make_user(username)
        Membership.objects.create(project=project, user=user, role=role, pseudonym=f"person-{username}"[:32])
        return user

    return make


@pytest.fixture
def annotator(make_member):
    return make_member("annotator", "annotator")


@pytest.fixture
def second_annotator(make_member):
    return make_member("second_annotator", "annotator")


@pytest.fixture
def reviewer(make_member):
    return make_member("reviewer", "reviewer")


@pytest.fixture
def admin(make_member):
    """An admin of `project`, not a superuser."""
    return make_member("admin", "admin")


@pytest.fixture
def outsider(make_user):
    """Signed in, member of nothing: every view meets the outsider."""
    return make_user("outsider")


@pytest.fixture
def client_for():
    """client_for(user) -> a Django test client signed in as that user."""
    from django.test import Client

    def make(user):
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    return make


@pytest.fixture
def api_for():
    """api_for(user) -> an API client that sends that user's bearer token; api_for(None) sends none."""
    from rest_framework.test import APIClient

    from plumbline import tokens

    def make(user):
        client = APIClient()
        if user is not None:
            client.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens.create_token(user, name='test')}")
        return client

    return make


@pytest.fixture(scope="session")
def postgres_url():
    """The address of a throw-away PostgreSQL server's empty database, up for the session."""
    from tests.postgres import PostgresMissing, start_postgres

    try:
        server = start_postgres()
    except PostgresMissing as missing:
        skip_or_fail(str(missing))
    yield server.url
    server.stop()


@pytest.fixture(scope="session")
def chromium_path():
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        skip_or_fail("no Chromium on the PATH: apt-get install chromium fonts-liberation")
    return path


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args, chromium_path):
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync --disable-dev-shm-usage"
    return {**browser_type_launch_args, "executable_path": chromium_path, "headless": True, "args": quiet.split()}
