"""The test before real work, as an annotator walks through it in a real browser."""

import io
import json

import pytest
from playwright.sync_api import expect

from annotation import known_answers, qualification
from annotation.models import Qualification, Ranking
from tests.web.test_look import violations
from tests.web.test_ranking import press, wait_for_rankings

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def known(number):
    answers = {"good": f"A kind ending, {number}.", "bad": f"A cruel ending, {number}."}
    return {
        "prompt": [{"role": "user", "content": f"Tell story {number}."}],
        "completions": [
            {"id": key, "messages": [{"role": "assistant", "content": text}]} for key, text in answers.items()
        ],
        "ranking": [["good"], ["bad"]],
    }


@pytest.fixture
def tested(project, admin, make_tasks):
    """Two test tasks, each right or wrong, before a real one; a third is left for another try."""
    project.qualification_tasks, project.qualification_percent = 2, 75
    project.gold_share = 0  # the third is not asked by chance in place of the real task
    project.save()
    lines = "\n".join(json.dumps(known(number)) for number in range(3))
    known_answers.import_file(project, file=io.BytesIO(lines.encode()), name="known", actor=admin)
    make_tasks(1, k=2, question="Real work.")
    return project


def rank(page, best):
    """Ranks the task on the page with the answer first that has the word `best`, and waits until it is gone."""
    assignment = page.locator(".task").get_attribute("data-assignment")
    first = page.locator(".answer", has_text=best)
    press(page, first.get_attribute("data-number"), "Enter")
    expect(page.locator(f'.task[data-assignment="{assignment}"]')).to_have_count(0)


def test_an_annotator_passes_the_test_and_goes_on_to_real_work(tested, open_ranking):
    page = open_ranking()
    test = page.locator("#test")
    expect(test).to_contain_text("Before the real work comes a short test: 0 of 2 tasks done.")
    assert violations(page) == []
    rank(page, "kind")
    expect(test).to_contain_text("1 of 2 tasks done.")
    rank(page, "kind")
    expect(page.locator(".turn--question")).to_contain_text("Real work.")
    expect(test).to_be_empty()
    expect(page.locator("#toast")).to_contain_text("You have passed the test.")
    assert Qualification.objects.get().passed
    press(page, "1", "Enter")
    assert wait_for_rankings(page, 3)[-1].task.purpose == "train"


def test_who_fails_is_told_what_next_and_may_be_let_in_again(tested, open_ranking, admin, monkeypatch):
    monkeypatch.setattr("annotation.views.POLL_SECONDS", 0.2)
    page = open_ranking()
    test = page.locator("#test")
    rank(page, "kind")
    expect(test).to_contain_text("1 of 2 tasks done.")
    rank(page, "cruel")
    expect(test).to_contain_text("In the test you agreed with 50% of the pairs")
    expect(test).to_contain_text("75% are needed before the real work.")
    expect(page.locator("#empty")).to_be_hidden()
    expect(page.locator(".answer")).to_have_count(0)
    assert violations(page) == []
    assert Ranking.objects.filter(task__purpose="train").count() == 0
    qualification.let_try_again(Qualification.objects.get(), actor=admin)
    # Without a reload: the page looks every few seconds.
    expect(test).to_contain_text("0 of 1 tasks done.")
    rank(page, "kind")
    expect(page.locator(".turn--question")).to_contain_text("Real work.")


def test_the_way_from_a_failed_test_leads_to_the_guidelines_and_to_practice(tested, open_ranking, annotator):
    Qualification.objects.create(
        project=tested, user=annotator, guideline_version=0, tasks=2, agreement=0.5, passed=False
    )
    page = open_ranking()
    expect(page.get_by_role("heading", name="In the test you agreed with 50% of the pairs")).to_be_visible()
    page.locator("#test").get_by_role("link", name="Practise").click()
    page.wait_for_url("**/practice/")
    page.go_back()
    page.locator("#test").get_by_role("link", name="Guidelines").click()
    page.wait_for_url("**/guidelines/")
