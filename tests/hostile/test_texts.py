"""Hostile prompts and answers are taken, kept byte for byte, and shown inert, whole and in bounded time."""

import time
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from annotation.assignment import next_assignment
from annotation.rendering import TAGS, render_markdown, render_plain
from tests.hostile.texts import HOSTILE_TEXTS

texts = pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
# What every text is allowed to become; rendering.py's own list, less what a mistake there could add.
INERT_TAGS = TAGS - {"script", "style", "img", "svg", "iframe", "object", "form", "input", "button", "base", "meta"}
INERT_ATTRIBUTES = {
    *("href", "target", "rel", "start", "class", "title", "display", "stretchy", "fence", "form", "minsize", "maxsize"),
    *("mathvariant", "accent", "linethickness", "width", "displaystyle"),
}


class Inspector(HTMLParser):
    """Every tag and attribute of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes


@texts
@pytest.mark.parametrize("render", [render_markdown, render_plain], ids=["Markdown", "as written"])
def test_it_renders_hostile_text_inert(text, render):
    found = Inspector(render(text))
    assert found.tags <= INERT_TAGS
    for name, value in found.attributes:
        assert name in INERT_ATTRIBUTES
        assert (
            name != "class"
            or value in ("hidden-mark", "not-loaded", "code", "verbatim", "verbatim-note")
            or (value.startswith("align-") or len(value) <= 3)
        )
        assert name != "href" or urlsplit(value).scheme in ("http", "https", "mailto")


@texts
def test_it_takes_bounded_time(text):
    started = time.process_time()
    render_markdown(text)
    # A few milliseconds for most; the rest is room for a slower machine.
    assert time.process_time() - started < 0.5


@pytest.mark.django_db
def test_it_stores_hostile_text_byte_for_byte(api_for, admin, annotator, project, prompt):
    api = api_for(admin)
    rows = [
        {
            "prompt_digest": prompt.digest,
            "message": {"role": "assistant", "content": text},
            "generator": {"kind": "import"},
        }
        for text in HOSTILE_TEXTS.values()
    ]
    answer = api.post("/api/v1/projects/stories/completions/", {"completions": rows})
    assert answer.status_code == 201, answer.content
    ids = [completion["id"] for completion in answer.json()["completions"]]
    sent = dict(zip(ids, HOSTILE_TEXTS.values(), strict=True))
    asked = api_for(annotator)
    for start in range(0, len(ids), 9):
        task = {"prompt_digest": prompt.digest, "completions": ids[start : start + 9]}
        assert api.post("/api/v1/projects/stories/tasks/", task).status_code == 201
        got = asked.post("/api/v1/projects/stories/next/").json()
        assert len(got["completions"]) == len(task["completions"])
        assert all(completion["text"] == sent[completion["id"]] for completion in got["completions"])
        assert asked.post(f"/api/v1/assignments/{got['assignment']['id']}/skip/", {}).status_code == 200
    assert next_assignment(project, annotator=annotator) is None
