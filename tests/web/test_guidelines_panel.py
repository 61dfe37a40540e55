"""The guidelines beside the task, or over it where there is no room, in a real browser."""

import pytest
from playwright.sync_api import expect

from annotation.models import Ranking
from annotation.projects import set_guideline
from tests.web.test_look import theme, violations  # noqa: F401 (a fixture)
from tests.web.test_ranking import press, rank_names, wait_for_rankings

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

RULES = "# What to look for\n\n" + "\n\n".join(f"{number}. A rule with an example." for number in range(1, 60))


@pytest.fixture
def guided(project, admin, annotator, make_tasks, open_ranking, page):
    """guided(width, is_new=False) -> the ranking page with guidelines, in a window of that width."""
    set_guideline(project, text=RULES, created_by=admin)
    make_tasks(3, k=2)

    def make(width, is_new=False):
        if not is_new:
            seen = f"plumbline-choice:guidelines-seen:{annotator.pk}:{project.slug}"
            page.add_init_script(f"localStorage.setItem('{seen}', 'true')")
        page.set_viewport_size({"width": width, "height": 740})
        return open_ranking()

    return make


def test_one_ranks_with_the_guidelines_beside_the_task(guided, theme):  # noqa: F811
    page = guided(1280)
    panel = page.locator("#guidelines")
    press(page, "g")
    expect(page.locator("#guidelines-title")).to_be_focused()
    expect(page.locator("#guide")).to_have_attribute("aria-expanded", "true")
    task, beside = page.locator("#ranking-form").bounding_box(), panel.bounding_box()
    assert task["x"] + task["width"] <= beside["x"] < beside["x"] + beside["width"] <= 1280
    # However long they are, the page does not grow for them.
    assert beside["height"] == task["height"]
    assert page.evaluate("document.querySelector('.sheet__page').scrollHeight") > 1000
    assert violations(page) == []
    press(page, "2", "1", "Enter")
    assert wait_for_rankings(page, 1)[0].guideline_version == 1
    expect(page.locator(".turn--question")).to_contain_text("(2)")
    expect(panel).to_be_visible()
    press(page, "g", "1")
    expect(panel).to_be_hidden()
    assert rank_names(page) == ["Best", ""]


def test_the_browser_remembers_that_they_stand_there(guided):
    page = guided(1280)
    panel = page.locator("#guidelines")
    page.locator("#guide").click()
    expect(panel).to_be_visible()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(panel).to_be_visible()
    assert not page.evaluate("document.querySelector('#guidelines').matches(':modal')")
    press(page, "1")  # the focus was not taken
    assert rank_names(page) == ["Best", ""]
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(panel).to_be_hidden()


def test_escape_closes_them_and_a_button_in_them_keeps_its_enter(guided):
    page = guided(1280)
    panel = page.locator("#guidelines")
    press(page, "1", "2", "g", "Tab")
    expect(panel.get_by_role("button", name="Close")).to_be_focused()
    press(page, "Enter")
    expect(panel).to_be_hidden()
    expect(page.locator(".conversation")).to_be_focused()
    press(page, "g", "Escape")
    expect(panel).to_be_hidden()
    assert Ranking.objects.count() == 0
    press(page, "Enter")
    wait_for_rankings(page, 1)


def test_on_a_phone_they_are_a_sheet_over_the_task(guided, theme):  # noqa: F811
    page = guided(360)
    panel = page.locator("#guidelines")
    page.get_by_role("button", name="Guidelines").click()
    expect(panel).to_be_visible()
    assert page.evaluate("document.querySelector('#guidelines').matches(':modal')")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert violations(page) == []
    press(page, "2")
    assert rank_names(page) == ["", ""]
    press(page, "Escape")
    expect(panel).to_be_hidden()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(panel).to_be_hidden()


def test_they_move_as_the_window_does(guided, page):
    page = guided(1280)
    press(page, "g")
    page.set_viewport_size({"width": 700, "height": 740})
    expect(page.locator("#guidelines")).to_be_hidden()
    page.set_viewport_size({"width": 1280, "height": 740})
    expect(page.locator("#guidelines")).to_be_visible()


@pytest.mark.parametrize(("width", "is_over_the_task"), [(1280, False), (360, True)])
def test_who_has_ranked_nothing_yet_sees_them_first_and_once(guided, width, is_over_the_task):
    page = guided(width, is_new=True)
    panel = page.locator("#guidelines")
    expect(panel).to_be_visible()
    expect(page.locator("#guidelines-title")).to_be_focused()
    assert page.evaluate("document.querySelector('#guidelines').matches(':modal')") == is_over_the_task
    press(page, "Escape")
    expect(panel).to_be_hidden()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    expect(panel).to_be_hidden()
    press(page, "1", "2", "Enter")
    wait_for_rankings(page, 1)
