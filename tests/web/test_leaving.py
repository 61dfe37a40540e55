"""What becomes of a reserved task when one leaves the ranking page, in a real browser."""

import pytest
from playwright.sync_api import expect

from annotation import assignment as assignments
from annotation.models import Assignment
from tests.web.test_ranking import press, rank_names

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def states(page, wanted):
    """Waits until the assignments, oldest first, have these states; `page` is any page that is open."""
    found = None
    for _attempt in range(400):
        found = list(Assignment.objects.order_by("created_at").values_list("state", flat=True))
        if found == wanted:
            break
        page.wait_for_timeout(50)
    assert found == wanted


@pytest.fixture
def released(monkeypatch):
    """The states of the assignments that the server was asked to release, as they were after it."""
    seen = []
    release = assignments.release

    def watch(assignment, **fields):
        answer = release(assignment, **fields)
        seen.append(answer.state)
        return answer

    monkeypatch.setattr("annotation.assignment.release", watch)
    return seen


def test_leaving_gives_the_task_and_the_one_loaded_ahead_back(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    question = page.locator(".turn--question").inner_text()
    states(page, ["leased", "leased"])
    page.wait_for_selector("html[data-ahead]")
    page.get_by_role("link", name="Your rankings").click()
    page.wait_for_url("**/work/")
    states(page, ["expired", "expired"])
    page.go_back()
    page.wait_for_selector("html[data-ready]")
    expect(page.locator(".turn--question")).to_have_text(question, use_inner_text=True)
    states(page, ["leased", "leased"])


def test_closing_the_tab_gives_the_task_back_to_somebody_else(
    make_tasks, open_ranking, context, second_annotator, project
):
    make_tasks(1)
    page = open_ranking()
    other = context.new_page()
    page.close(run_before_unload=True)
    states(other, ["expired"])
    assert assignments.next_assignment(project, annotator=second_annotator) is not None


def test_a_task_that_one_has_begun_stays_reserved_with_its_draft(make_tasks, open_ranking, released):
    make_tasks(2)
    page = open_ranking()
    states(page, ["leased", "leased"])
    page.wait_for_selector("html[data-ahead]")
    press(page, "4", "2", "=", "1")
    before = rank_names(page)
    page.get_by_role("link", name="Your rankings").click()
    page.wait_for_url("**/work/")
    states(page, ["leased", "expired"])
    assert released == ["expired"]
    page.go_back()
    page.wait_for_selector("html[data-ready]")
    assert rank_names(page) == before


def test_a_reload_keeps_the_task(make_tasks, open_ranking, released):
    make_tasks(1)
    page = open_ranking()
    question = page.locator(".turn--question").inner_text()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    for _attempt in range(400):
        if released:
            break
        page.wait_for_timeout(50)
    # The old page gave back a lease that the new one had renewed by then.
    assert released == ["leased"]
    assert page.locator(".turn--question").inner_text() == question
    assert Assignment.objects.get().state == "leased"


def test_a_ranking_that_waits_in_the_browser_keeps_its_task(make_tasks, open_ranking, context, released):
    make_tasks(2)
    page = open_ranking()
    states(page, ["leased", "leased"])
    page.wait_for_selector("html[data-ahead]")
    page.route("**/ranking/", lambda route: route.abort())
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.locator("#notice")).to_contain_text("waits in this browser")
    other = context.new_page()
    page.close(run_before_unload=True)
    states(other, ["leased", "expired"])
    assert released == ["expired"]
    page.problems.clear()  # the browser logs each call that found no connection
