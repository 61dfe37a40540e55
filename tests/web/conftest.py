"""A live server, a signed-in browser, and tasks to rank."""

import pytest
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from playwright.sync_api import expect

expect.set_options(timeout=20_000)  # milliseconds: the machine may be busy with something else

STORIES = (
    "Once a shy fox found a kite in the tall grass. The string was caught on a thorn. The fox pulled, and the thorn "
    "pulled back, so the fox sat down and waited for the wind to change. When it did, the kite rose by itself, and the "
    "fox laughed for the first time that spring.",
    "There was a fox. The fox had a kite. The kite flew away and the fox went home.",
    "A shy fox never spoke to anyone.\n\nOne day it held **a kite** so high that every animal came to look. The fox "
    "hid behind the kite, and from there it found that talking was easy. They all flew it together until the "
    "moon came up.",
    "Kites are made of paper and wood. Foxes are mammals of the family Canidae.",
    "The fox was sad and lost the kite. It rained.",
    "A fox and a kite are friends; the end.",
    "The kite showed the fox the way home.",
    "Fox, kite, wind, joy.",
    "I cannot tell stories.",
)


@pytest.fixture
def make_tasks(project):
    """make_tasks(count, k=4, texts=…, question=…) queues tasks in `project`."""
    from annotation.assignment import queue_task
    from annotation.messages import messages_digest, text_sha256
    from annotation.models import Completion, Prompt, PromptSet

    def make(count=1, *, k=4, texts=STORIES, question="Tell a story about a shy fox and a kite.", messages=None):
        number = PromptSet.objects.count() + 1
        prompts = PromptSet.objects.create(project=project, name=f"set {number}", file_sha256=f"{number:064d}")
        tasks = []
        for position in range(1, count + 1):
            asked = messages or [{"role": "user", "content": question if position == 1 else f"{question} ({position})"}]
            prompt = Prompt.objects.create(
                prompt_set=prompts,
                digest=messages_digest(asked),
                messages=asked,
                pool="reward",
                group=str(position),
                position=position,
            )
            completions = []
            for text in texts[:k]:
                message = {"role": "assistant", "content": text}
                completions.append(
                    Completion.objects.create(
                        prompt=prompt, message=message, text_sha256=text_sha256(message), generator={"kind": "import"}
                    )
                )
            tasks.append(queue_task(project, prompt=prompt, completions=completions, priority=count - position))
        return tasks

    return make


@pytest.fixture
def sign_in(context, live_server, transactional_db):
    """sign_in(user): the browser's context holds that user's session."""

    def make(user):
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        context.add_cookies([{"name": "plumbline_session", "value": session.session_key, "url": live_server.url}])

    return make


@pytest.fixture
def watched(page):
    """The page, which must not log an error, meet its content security policy, or leave its own server."""
    problems = []
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: "//localhost" in request.url or problems.append(request.url))
    page.problems = problems
    yield page
    assert page.problems == []


@pytest.fixture
def open_ranking(watched, sign_in, live_server, project, annotator):
    """open_ranking() -> the ranking page as the annotator sees it, its scripts running."""

    def make(user=annotator):
        sign_in(user)
        watched.goto(f"{live_server.url}/projects/{project.slug}/rank/")
        watched.wait_for_selector("html[data-ready]")
        return watched

    return make
