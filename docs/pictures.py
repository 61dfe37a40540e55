"""Makes the README's pictures again, from the running product: `make pictures` (two minutes on two cores).

A fresh demo, one ranking half made, then simulated annotators' and a round under way.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

from playwright.sync_api import expect, sync_playwright  # noqa: E402

from plumbline.demo.golds import GOLDS  # noqa: E402
from tests.running_up import RunningUp, end  # noqa: E402

FOLDER = ROOT / "docs" / "img"
WIDTH = 1280
RANKINGS = 120
ITERATIONS_SHOWN = 16  # of the round's PPO, when the dashboard's picture is taken
PATIENCE_SECONDS = 1200


def main():
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="plumbline-pictures-") as folder, sync_playwright() as playwright:
        demo = RunningUp(Path(folder) / "data", "--demo")
        try:
            demo.wait_until_ready()
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            # Without motion, so that no picture is taken half way.
            looks = {"color_scheme": "light", "reduced_motion": "reduce"}
            page = browser.new_page(viewport={"width": WIDTH, "height": 800}, **looks)
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
    expect(page.locator(".answer")).to_have_count(4)
    best, second, third = kindest_first(page)[:3]
    for key in (best, second, "=", third):
        page.keyboard.press(key)
    page.set_viewport_size({"width": WIDTH, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.screenshot(path=FOLDER / "ranking.png")


def kindest_first(page):
    """The answers' keys in the order that the guideline asks for."""
    prompt = page.locator(".turn--question [data-rendered]").inner_text()
    texts = page.locator(".answer .answer__text [data-rendered]").all_inner_texts()
    kindness = [GOLDS["style"].score(prompt, text) for text in texts]
    return [str(number + 1) for number in sorted(range(len(texts)), key=lambda number: -kindness[number])]


def picture_dashboard(page, demo):
    done = demo.command("simulate", "stories", "--rankings", str(RANKINGS))
    print(done.stdout, done.stderr, sep="")
    page.get_by_role("link", name="Stories").click()
    page.get_by_role("button", name="Start round 1").click()
    score = page.locator("[data-chart]", has=page.get_by_text("Score", exact=True))
    enough = re.compile("|".join(str(count) for count in range(ITERATIONS_SHOWN, ITERATIONS_SHOWN + 15)))
    expect(score).to_have_attribute("data-points", enough, timeout=1000 * PATIENCE_SECONDS)
    below_samples = page.locator(".sample").nth(1).bounding_box()
    page.set_viewport_size({"width": WIDTH, "height": int(below_samples["y"])})
    page.screenshot(path=FOLDER / "dashboard.png")


if __name__ == "__main__":
    main()
