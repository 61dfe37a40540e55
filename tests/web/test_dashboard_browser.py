"""The dashboard in a real browser: charts that move by themselves, two themes, a phone, and nobody left out."""

import datetime

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.urls import reverse
from django.utils import timezone
from playwright.sync_api import expect

from tests.web import dashboard_story as story
from training.models import Checkpoint, Run

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

WAIT = 20_000  # milliseconds that a busy machine may take; the page asks every 2 to 3 seconds


@pytest.fixture
def open_page(watched, sign_in, live_server, project, admin):
    """open_page("dashboard", …) -> that page as the admin sees it."""
    sign_in(admin)

    def make(name, *args):
        watched.goto(live_server.url + reverse(f"training:{name}", args=[project.slug, *args]))
        return watched

    return make


@pytest.fixture
def trained(project, annotator):
    story.add_prompts(project)
    story.add_policy(project)
    story.add_rankings(project, annotator, 70)
    row = story.finished_round(project)
    story.judge_blind(project, annotator, row, wins=9, losses=3)
    story.running_round(project)
    return project


def expect_points(page, name, count):
    """Waits until the chart with this name shows so many points; charts draw one after the other."""
    figure = page.locator("[data-chart]", has=page.get_by_text(name, exact=True))
    expect(figure).to_have_attribute("data-points", str(count), timeout=WAIT)


def test_it_moves_charts_and_stages_without_a_reload(trained, open_page):
    run = Run.objects.get(state="running")
    page = open_page("dashboard")
    page.evaluate("window.sameDocument = true")
    expect_points(page, "Score", 12)
    expect_points(page, "Reward-model accuracy", 40)
    story.add_metrics(run, 13, 20)
    Run.objects.filter(id=run.id).update(step=20)
    expect_points(page, "Score", 20)
    page.get_by_text("20 / 40").wait_for(timeout=WAIT)
    now = timezone.now()
    Run.objects.filter(id=run.id).update(state="succeeded", step=40, finished_at=now)
    story.add_metrics(run, 21, 40)
    run.round.state, run.round.finished_at = "succeeded", now + datetime.timedelta(seconds=1)
    run.round.save()
    page.get_by_text("round 2", exact=False).first.wait_for(timeout=WAIT)
    page.locator("[data-part=round-heading] .badge", has_text="succeeded").wait_for(timeout=WAIT)
    expect(page.locator('[data-chart][data-points="40"]')).to_have_count(5, timeout=WAIT)
    assert page.evaluate("window.sameDocument") is True


def test_a_cancelled_round_goes_on_until_its_run_has_ended(trained, open_page):
    run = Run.objects.get(state="running")
    run.round.state, run.round.message, run.round.finished_at = "cancelled", "Cancelled.", timezone.now()
    run.round.save()
    page = open_page("round", run.round.number)
    stages = page.locator("[data-part=stages]")
    expect(stages.locator("[data-state=current]")).to_have_count(1)
    expect(stages.locator("[data-state=todo] .stages__state").first).to_have_text("not reached")
    assert page.get_by_text("Cancelled.").count() == 0, "the badge says it"
    Run.objects.filter(id=run.id).update(state="cancelled", message="Cancelled.", finished_at=timezone.now())
    expect(stages.locator("[data-state=cancelled]")).to_have_count(1, timeout=WAIT)
    expect(stages.locator("[data-state=current]")).to_have_count(0)


def test_it_says_that_all_steps_are_done_and_that_the_server_is_away(trained, open_page):
    run = Run.objects.get(state="running")
    Run.objects.filter(id=run.id).update(step=run.total_steps)
    page = open_page("dashboard")
    expect(page.locator("[data-part=stages]")).to_contain_text(f"{run.total_steps} / {run.total_steps} · finishing")
    page.route("**/*", lambda route: route.abort())
    notice = page.get_by_text("No connection to Plumbline.")
    expect(notice).to_be_visible(timeout=WAIT)
    page.unroute("**/*")
    expect(notice).to_have_count(0, timeout=WAIT)
    page.problems.clear()  # the browser logs each call that found no connection


def test_it_shows_new_samples_as_they_come(trained, open_page):
    run = Run.objects.get(state="running")
    page = open_page("dashboard")
    sample = {"prompt": "p", "completion": "A brand new ending.", "reference": "r", "score": 1, "reference_score": 0}
    run.events.create(kind="samples", step=25, payload={"samples": [sample]}, time=timezone.now())
    page.get_by_text("A brand new ending.").wait_for(timeout=WAIT)


def test_it_leaves_alone_what_someone_is_reading(trained, open_page):
    run = Run.objects.get(state="running")
    page = open_page("dashboard")
    page.get_by_text("1 more").click()
    sample = {"prompt": "p", "completion": "Later.", "reference": "r", "score": 1, "reference_score": 0}
    run.events.create(kind="samples", step=25, payload={"samples": [sample]}, time=timezone.now())
    page.wait_for_timeout(4000)
    assert page.locator("details[open].samples__more").count() == 1
    page.get_by_text("1 more").click()
    page.get_by_text("Later.").wait_for(timeout=WAIT)


def test_it_redraws_charts_in_the_colours_of_the_theme(trained, open_page):
    page = open_page("dashboard")
    expect_points(page, "Score", 12)
    # Colours of drawn pixels that are neither clear nor grey: the line's.
    ink = """() => {
      const canvas = document.querySelector('[data-chart] canvas');
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      const seen = new Set();
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] === 255 && Math.abs(data[i] - data[i + 2]) > 40) seen.add(data.slice(i, i + 3).join());
      return [...seen];
    }"""
    before = page.wait_for_function(
        f"() => {{ const seen = ({ink})(); return seen.length && seen; }}", timeout=WAIT
    ).json_value()
    page.locator("[data-theme-switch]").click()
    anew = f"before => {{ const now = ({ink})(); return now.length && !now.some((one) => before.includes(one)); }}"
    page.wait_for_function(anew, arg=before, timeout=WAIT)


def test_it_has_no_accessibility_violations(trained, open_page):
    run = Run.objects.get(state="running")
    policy = Checkpoint.objects.get(role="policy")
    pages = [
        ("dashboard",),
        ("rounds",),
        ("round", 1),
        ("run", run.id),
        ("checkpoints",),
        ("promote", policy.id),
        ("withdraw", policy.id),
        ("plan",),
    ]
    found = {}
    for theme in ("light", "dark"):
        for name, *args in pages:
            page = open_page(name, *args)
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # no colour half way
            violations = Axe().run(page).response["violations"]
            found |= {(name, theme, v["id"]): [n["html"][:120] for n in v["nodes"]] for v in violations}
    assert found == {}


def test_it_fits_a_phone(trained, open_page, watched):
    watched.set_viewport_size({"width": 390, "height": 844})
    for name, *args in (("dashboard",), ("round", 1), ("checkpoints",), ("plan",)):
        page = open_page(name, *args)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name


def test_it_shows_the_current_tab_on_a_phone(trained, open_page, watched):
    watched.set_viewport_size({"width": 390, "height": 844})
    box = open_page("plan").locator(".nav [aria-current]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390


def test_it_promotes_a_policy_after_saying_what_follows(trained, open_page, monkeypatch):
    monkeypatch.setattr("training.checkpoints.verify", lambda *args, **options: "")
    page = open_page("checkpoints")
    page.get_by_role("link", name="Promote Round 1 policy").click()
    page.get_by_text("Starter retires", exact=False).wait_for()
    assert Checkpoint.objects.get(role="policy").state == "verified"
    page.get_by_role("button", name="Promote").click()
    page.get_by_text("Round 1 policy is promoted.").wait_for()
    assert Checkpoint.objects.get(state="promoted").name == "Round 1 policy"
    page.get_by_role("link", name="Roll back Starter").click()
    page.get_by_role("heading", name="Roll back to Starter?").wait_for()
