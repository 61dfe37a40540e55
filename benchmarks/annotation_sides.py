"""The two servers of benchmarks/annotation.py: how each is started, filled with tasks and asked over HTTP.

A side is used in a with statement; `prepare()` gives its annotators, each with `next(session)`, which returns a task or
None, and `submit(session, task, client_id)`. Both raise aiohttp's errors, also for a status that is an error.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
from product import ROOT, Product, descendants, free_port

WORLD = ROOT / "benchmarks" / "annotation_world.py"
TEXTS = (
    "Once a shy fox found a kite in the tall grass. It waited for the wind, and the kite rose by itself.",
    "There was a fox. The fox had a kite. The kite flew away and the fox went home.",
    "A shy fox held a kite so high that every animal came to look, and they all flew it together.",
    "Kites are made of paper and wood. Foxes are mammals of the family Canidae.",
)
LEAST_BETWEEN_MASTERS = 20.0  # seconds: `up` waits longer after each death in a row


# Plumbline


class Plumbline(Product):
    """`plumbline up` without the demo."""

    name = "Plumbline"

    def __init__(self, postgres=None):
        super().__init__(demo=False, environ={"DATABASE_URL": postgres.url} if postgres else {})
        self.last_master_kill = 0.0

    def prepare(self, *, tasks, annotators, overlap):
        made = self.world("prepare", tasks, annotators, overlap)
        return [PlumblineAnnotator(self.address, made["slug"], token) for token in made["tokens"]]

    def check(self, acknowledged):
        path = self.data_dir / "acknowledged.json"
        path.write_text(json.dumps(acknowledged.rankings))
        return self.world("check", path)

    def world(self, *arguments):
        command = [sys.executable, str(WORLD), *map(str, arguments)]
        ended = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        if ended.returncode:
            sys.exit(ended.stderr)
        return json.loads(ended.stdout.splitlines()[-1])

    def web_bytes(self):
        """All of them: granian's own, its workers, and the process that watches over them."""
        return sum(process.resident_bytes for process in descendants(self.process.pid) if "granian" in process.command)

    def kill_web_process(self, chance):
        """How many were killed: a worker, or now and then the process that starts the workers."""
        web = [process for process in descendants(self.process.pid) if process.kind == "web"]
        masters = {process.pid for process in web} & {process.parent for process in web}
        pids = [process.pid for process in web if process.pid not in masters]
        if time.monotonic() - self.last_master_kill > LEAST_BETWEEN_MASTERS and chance.random() < 0.3:
            self.last_master_kill = time.monotonic()
            pids = list(masters)
        if not pids:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)
        return 1


class PlumblineAnnotator:
    def __init__(self, address, slug, token):
        self.api = f"{address}/api/v1/"
        self.slug = slug
        self.headers = {"Authorization": f"Bearer {token}"}

    async def next(self, session):
        async with session.post(f"{self.api}projects/{self.slug}/next/", headers=self.headers) as answer:
            answer.raise_for_status()
            return None if answer.status == 204 else await answer.json()

    async def submit(self, session, task, client_id):
        body = {
            "client_id": client_id,
            "ranking": [[completion["id"]] for completion in task["completions"]],
            "seconds": 20.0,
        }
        address = f"{self.api}assignments/{task['assignment']['id']}/ranking/"
        async with session.post(address, headers=self.headers, json=body) as answer:
            answer.raise_for_status()
            return await answer.json()


# Label Studio


CONFIG = (
    '<View><Text name="prompt" value="$prompt"/><List name="answers" value="$items" title="Answers"/>'
    '<Ranker name="rank" toName="answers"/></View>'
)
ADMIN_TOKEN = "0123456789abcdef0123456789abcdef01234567"
IMPORT_BATCH = 2_000
READY_SECONDS = 240
# Run by Label Studio's own Python: accounts with tokens, which its pages would make one by one.
MAKE_USERS = """
import os, sys
import label_studio
sys.path.insert(0, os.path.dirname(label_studio.__file__))
os.environ["DJANGO_SETTINGS_MODULE"] = "label_studio.core.settings.label_studio"
import django
django.setup()
from organizations.models import Organization
from rest_framework.authtoken.models import Token
from users.models import User
organization = Organization.objects.first()
for number in range(int(sys.argv[1])):
    user = User.objects.create_user(email=f"annotator{number}@example.org", password=os.urandom(12).hex())
    organization.add_user(user)
    user.active_organization = organization
    user.save()
    print("TOKEN", Token.objects.get_or_create(user=user)[0].key)
"""


class LabelStudio:
    """`label-studio start`, as pip installs it."""

    name = "Label Studio"

    def __init__(self, folder, postgres=None):
        self.programs = Path(folder).resolve() / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="label-studio-benchmark-"))
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.environ = {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            # Neither reports nor looks for updates: it should only serve.
            "COLLECT_ANALYTICS": "0",
            "LATEST_VERSION_CHECK": "0",
        }
        if postgres:
            parts = urlsplit(postgres.url)
            self.environ |= {
                "DJANGO_DB": "default",
                "POSTGRE_HOST": parse_qs(parts.query)["host"][0],
                "POSTGRE_NAME": parts.path.strip("/"),
                "POSTGRE_USER": parts.username,
                "POSTGRE_PASSWORD": "",
            }
            made = subprocess.run(
                [*postgres.psql, "-c", "CREATE DATABASE label_studio"], capture_output=True, text=True, check=False
            )
            if made.returncode:
                sys.exit(made.stderr)
            self.environ["POSTGRE_NAME"] = "label_studio"

    def __enter__(self):
        started = time.monotonic()
        command = [self.programs / "label-studio", "start", "--no-browser", "--data-dir", self.folder]
        command += ["--username", "admin@example.org", "--password", os.urandom(12).hex()]
        command += ["--user-token", ADMIN_TOKEN, "--enable-legacy-api-token"]
        command += ["--port", str(self.port), "--internal-host", "127.0.0.1"]
        self.output_path = self.folder / "output.txt"
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env=self.environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - started > READY_SECONDS:
                sys.exit(f"Label Studio did not start:\n{self.output_path.read_text()[-3000:]}")
            time.sleep(0.05)
        self.ready_seconds = time.monotonic() - started
        return self

    def __exit__(self, *error):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def answers(self):
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.address}/user/login/", trust_env=False, timeout=5).status_code == 200
        return False

    def prepare(self, *, tasks, annotators, overlap):
        headers = {"Authorization": f"Token {ADMIN_TOKEN}"}
        with httpx.Client(base_url=f"{self.address}/api/", headers=headers, trust_env=False, timeout=120) as api:
            fields = {"title": "Stories", "label_config": CONFIG, "maximum_annotations": overlap}
            made = api.post("projects/", json=fields).raise_for_status().json()
            for start in range(0, tasks, IMPORT_BATCH):
                rows = [
                    {"data": {"prompt": f"Tell story {number}.", "items": label_studio_items()}}
                    for number in range(start, min(start + IMPORT_BATCH, tasks))
                ]
                api.post(f"projects/{made['id']}/import", json=rows).raise_for_status()
        command = [self.programs / "python", "-c", MAKE_USERS, str(annotators)]
        ended = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        tokens = [line.removeprefix("TOKEN ") for line in ended.stdout.splitlines() if line.startswith("TOKEN ")]
        if len(tokens) != annotators:
            sys.exit(ended.stderr[-3000:])
        return [LabelStudioAnnotator(self.address, made["id"], token) for token in tokens]

    def web_bytes(self):
        return sum(process.resident_bytes for process in descendants(self.process.pid))


def label_studio_items():
    return [{"id": str(number), "body": text} for number, text in enumerate(TEXTS)]


class LabelStudioAnnotator:
    def __init__(self, address, project, token):
        self.api = f"{address}/api/"
        self.project = project
        self.headers = {"Authorization": f"Token {token}"}

    async def next(self, session):
        async with session.get(f"{self.api}projects/{self.project}/next/", headers=self.headers) as answer:
            if answer.status == 404:
                return None
            answer.raise_for_status()
            return await answer.json()

    async def submit(self, session, task, client_id):
        order = [item["id"] for item in task["data"]["items"]]
        result = {"type": "ranker", "from_name": "rank", "to_name": "answers", "value": {"ranker": {"rank": order}}}
        body = {"result": [result], "lead_time": 20.0}
        async with session.post(
            f"{self.api}tasks/{task['id']}/annotations/", headers=self.headers, json=body
        ) as answer:
            answer.raise_for_status()
            return await answer.json()
