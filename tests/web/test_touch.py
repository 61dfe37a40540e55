"""The ranking page on a phone, by touch alone, in a real browser."""

import pytest
from playwright.sync_api import expect

from annotation.models import Ranking
from tests.web.test_ranking import order, rank_names, shown, wait_for_rankings, wait_for_room

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HOLD_MS = 300  # a chip is picked up by a touch that rests on it: longer than the delay in drag.js


@pytest.fixture
def browser_context_args(browser_context_args):
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    return {**browser_context_args, **phone}


@pytest.fixture
def finger(context, page):
    """One finger: finger("touchStart", x, y), "touchMove", and "touchEnd" without a place."""
    session = context.new_cdp_session(page)

    def act(kind, *place):
        points = [{"x": place[0], "y": place[1]}] if place else []
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    return act


def middle(locator, *, x=0.5):
    box = locator.bounding_box()
    return box["x"] + box["width"] * x, box["y"] + box["height"] / 2


def move(finger, start, end, *, steps=8):
    for step in range(1, steps + 1):
        finger("touchMove", *(one + (other - one) * step / steps for one, other in zip(start, end, strict=True)))


def drag(page, finger, source, target, *, x=0.5):
    start = middle(source)
    finger("touchStart", *start)
    page.wait_for_timeout(HOLD_MS)
    finger("touchMove", start[0] + 6, start[1])
    expect(page.locator("#bar")).to_have_attribute("data-dragging", "")
    move(finger, start, middle(target, x=x))  # the gaps widen while one drags
    wait_for_room(target, lambda: move(finger, middle(target, x=x - 0.05), middle(target, x=x), steps=2))
    finger("touchEnd")
    expect(page.locator("#bar")).not_to_have_attribute("data-dragging", "")


def test_it_ranks_by_tapping(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    cards = shown(page)
    expect(page.locator("#order-hint")).to_contain_text("Tap one")
    page.locator("#tray .chip", has_text="3").tap()
    page.locator(".answer").first.locator(".answer__text").tap()
    page.locator("#tray .chip", has_text="4").tap()
    expect(page.locator(".answer__rank")).to_have_text(["2nd", "", "Best", "3rd"])
    page.locator("#submit").tap()
    page.locator("#toast-undo").tap()
    expect(page.locator(".answer__rank")).to_have_text(["2nd", "", "Best", "3rd"])
    page.locator("#submit").tap()
    expect(page.locator(".turn--question")).to_contain_text("(2)")
    # Taken back before it left or after: the newest version is the one that counts.
    for _attempt in range(400):
        if found := Ranking.objects.filter(is_current=True).first():
            break
        page.wait_for_timeout(50)
    assert order(found, cards) == [[3], [1], [4], [2]]


def test_it_ties_by_tapping(make_tasks, open_ranking):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    tie = page.locator("#tie")
    expect(tie).to_be_disabled()
    page.locator("#tray .chip", has_text="2").tap()
    tie.tap()
    expect(tie).to_have_attribute("aria-pressed", "true")
    page.locator("#tray .chip", has_text="3").tap()
    expect(page.locator(".answer__rank")).to_have_text(["", "Best, tied", "Best, tied"])
    expect(tie).to_have_attribute("aria-pressed", "false")
    submit, bar = page.locator("#submit").bounding_box(), page.locator(".bar__inner").bounding_box()
    assert submit["x"] - bar["x"] == bar["x"] + bar["width"] - submit["x"] - submit["width"]
    page.locator("#submit").tap()
    assert order(wait_for_rankings(page, 1)[0], cards) == [[2, 3], [1]]


def test_it_drags_by_touch(make_tasks, open_ranking, finger):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    for number in "123":
        page.locator("#tray .chip, .chip--implied", has_text=number).tap()
    strip = page.locator("#strip")
    drag(page, finger, strip.locator(".chip", has_text="3"), strip.locator(".order__gap").first)
    expect(page.locator(".answer__rank")).to_have_text(["2nd", "3rd", "Best"])
    drag(page, finger, strip.locator(".chip", has_text="2"), strip.locator(".order__ties", has_text="1"), x=0.8)
    expect(page.locator(".answer__rank")).to_have_text(["2nd, tied", "2nd, tied", "Best"])
    drag(page, finger, strip.locator(".chip", has_text="3"), page.locator("#tray"))
    expect(page.locator(".answer__rank")).to_have_text(["Best, tied", "Best, tied", ""])
    page.locator("#submit").tap()
    assert order(wait_for_rankings(page, 1)[0], cards) == [[1, 2], [3]]


def test_a_swipe_turns_to_the_next_answer_and_ranks_nothing(make_tasks, open_ranking, finger):
    make_tasks(1, k=3)
    page = open_ranking()
    second = page.locator(".answer").nth(1)
    assert second.bounding_box()["x"] > 195
    y = middle(page.locator(".answer").first)[1]
    finger("touchStart", 330, y)
    move(finger, (330, y), (60, y))
    finger("touchEnd")
    left = "document.querySelectorAll('.answer')[1].getBoundingClientRect().left"
    page.wait_for_function(f"() => Math.abs({left} - 16) < 2")  # px: the page's margin
    assert rank_names(page) == ["", "", ""]
    second.locator(".answer__text").tap()
    assert rank_names(page) == ["", "Best", ""]
