"""Writing answers and prompts: on the server, and in a real browser."""

import uuid

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from annotation import demonstrations
from annotation.models import Demonstration, Prompt, PromptProposal
from annotation.prompts import import_prompts
from tests.web.test_look import violations


@pytest.fixture
def asking(project):
    import io

    project.ranking_form = {"write_answers": True, "write_prompts": True}
    project.save()
    return import_prompts(project, name="sft", file=io.BytesIO(b'{"prompt": "Why is $1+1=2$?"}'), pool="sft").prompt_set


def url(name):
    return reverse(f"annotation:{name}", args=["stories"])


@pytest.mark.django_db
class TestOnTheServer:
    def test_only_those_who_are_asked_write(self, client_for, annotator, outsider, project, asking):
        for name in ("write_answer", "write_prompt"):
            assert client_for(annotator).get(url(name)).status_code == 200
            assert client_for(outsider).get(url(name)).status_code == 404
        for name in ("proposed", "decide"):
            method = "get" if name == "proposed" else "post"
            assert getattr(client_for(annotator), method)(url(name)).status_code == 403
            assert getattr(client_for(outsider), method)(url(name)).status_code == 404
        project.ranking_form = {}
        project.save()
        for name in ("write_answer", "write_prompt"):
            assert client_for(annotator).get(url(name)).status_code == 404

    def test_nothing_is_shown_before_consent(self, client_for, annotator, project, asking):
        project.ranking_form |= {"sensitive": True}
        project.save()
        assert client_for(annotator).get(url("write_answer")).status_code == 403

    @pytest.mark.parametrize("posted", [{}, {"prompt": "x"}, {"prompt": str(uuid.UUID(int=1)), "text": "a"}])
    def test_an_answer_to_no_prompt_is_not_found(self, client_for, annotator, asking, posted):
        assert client_for(annotator).post(url("write_answer"), posted).status_code == 404

    def test_a_nul_in_the_address_asks_for_nothing_else(self, client_for, annotator, asking, monkeypatch):
        asked = []
        monkeypatch.setattr(demonstrations, "next_prompt", lambda project, author, after: asked.append(after))
        assert client_for(annotator).get(url("write_answer") + "?after=a%00b").status_code == 200
        assert asked == ["ab"]

    @pytest.mark.parametrize("text", ["", "   ", "a\x00b"])
    def test_an_empty_answer_is_refused(self, client_for, annotator, asking, text):
        posted = {"prompt": str(Prompt.objects.get().pk), "text": text}
        assert client_for(annotator).post(url("write_answer"), posted).status_code == 400
        assert not Demonstration.objects.exists()

    def test_an_odd_decision_changes_nothing(self, client_for, admin, annotator, asking):
        client_for(annotator).post(url("write_prompt"), {"text": "Tell a story."})
        for posted in (
            {},
            {"decision": "accept", "proposals": "x"},
            {"decision": "burn", "proposals": str(uuid.uuid4())},
        ):
            assert client_for(admin).post(url("decide"), posted).status_code == 302
        assert PromptProposal.objects.get().state == "waiting"


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
def test_people_write_answers_and_prompts_and_an_admin_decides(watched, sign_in, live_server, annotator, admin, asking):
    page = watched
    sign_in(annotator)
    page.goto(live_server.url + url("write_answer"))
    expect(page.locator("main math")).to_be_visible()
    assert violations(page) == []
    box = page.get_by_label("How should the model answer?")
    box.fill("Because of Peano.")
    page.reload()
    expect(box).to_have_value("Because of Peano.")
    box.press("Control+Enter")
    expect(page.get_by_role("heading", name="No request waits for an answer")).to_be_visible()
    assert Demonstration.objects.get().message["content"] == "Because of Peano."
    page.get_by_role("link", name="A new prompt").click()
    page.get_by_label("What would somebody ask?").fill("Tell a story about a <b>heron</b>.")
    page.get_by_role("button", name="Propose it").click()
    expect(page.locator(".work__row")).to_contain_text("waiting")
    expect(page.get_by_label("What would somebody ask?")).to_have_value("")
    assert violations(page) == []
    sign_in(admin)
    page.goto(live_server.url + url("prompts"))
    page.get_by_role("link", name="Decide").click()
    expect(page.locator(".proposal")).to_contain_text("Tell a story about a <b>heron</b>.")
    assert violations(page) == []
    page.get_by_label("What the prompts are for").select_option("ppo")
    page.get_by_role("button", name="Take the marked ones").click()
    expect(page.get_by_role("heading", name="Nothing to decide")).to_be_visible()
    assert Prompt.objects.filter(pool="ppo").get().messages[0]["content"] == "Tell a story about a <b>heron</b>."
