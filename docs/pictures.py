"""Makes the README's pictures again, from the running product: `make pictures` (three minutes on two cores).

A fresh demo, a few rankings by hand, simulated annotators for the rest, and a round under way.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from playwright.sync_api import expect, sync_playwright  # noqa: E402

from tests.running_up import RunningUp, end  # noqa: E402

FOLDER = ROOT / "docs" / "img"
WIDTH = 1280
RANKINGS = 240
ITERATIONS_SHOWN = 24  # of the round's PPO, when the dashboard's picture is taken
PATIENCE_SECONDS = 600


def main():
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plumbline-pictures-") as folder, sync_playwright() as playwright:
        demo = RunningUp(Path(folder) / "data", "--demo")
        try:
            demo.wait_until_ready()
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light")
            sign_in(page, demo)
            picture_ranking(page)
            picture_dashboard(page, demo)
            browser.close()
        finally:
            end(demo)


def chromium():
    """A browser of this machine; None takes Playwright's own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def sign_in(page, demo):
    page.goto(re.search(r"http://\S+/account/sign-in/\S+/", demo.output)[0])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Stories").click()


def picture_ranking(page):
    page.get_by_role("link", name="Rank answers").click()
    page.wait_for_selector("html[data-ready]")
    for number in range(1, 13):
        rank(page, "3", "1", "4", "Enter")
        expect(page.locator("#progress")).to_contain_text(f"{number} of 60 today")
    page.locator("#toast").wait_for(state="hidden")
    rank(page, "2", "4", "=", "1")
    page.set_viewport_size({"width": WIDTH, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.screenshot(path=FOLDER / "ranking.png")


def rank(page, *keys):
    expect(page.locator(".answer")).to_have_count(4)
    for key in keys:
        page.keyboard.press(key)
        page.wait_for_timeout(400)  # somebody who reads


def picture_dashboard(page, demo):
    done = demo.command("simulate", "stories", "--rankings", str(RANKINGS))
    print(done.stdout, done.stderr, sep="")
    page.get_by_role("link", name="Stories").click()
    page.get_by_role("button", name="Start round 1").click()
    score = page.locator("[data-chart]", has=page.get_by_text("Score", exact=True))
    enough = re.compile("|".join(str(count) for count in range(ITERATIONS_SHOWN, ITERATIONS_SHOWN + 10)))
    expect(score).to_have_attribute("data-points", enough, timeout=1000 * PATIENCE_SECONDS)
    below_samples = page.locator(".sample").nth(1).bounding_box()
    page.set_viewport_size({"width": WIDTH, "height": int(below_samples["y"])})
    page.screenshot(path=FOLDER / "dashboard.png")


if __name__ == "__main__":
    main()
