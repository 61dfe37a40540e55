"""From a fresh clone to the first ranked page: seconds until the server, the ranking page and the next task are ready.

    python benchmarks/first_page.py [--install] [--loads 5]

Starts `plumbline up --demo` on empty data and drives the ranking page in headless Chromium, each load in a browser
context without a cache. Ready means: the first answer is painted and the keyboard is heard. --install first clones the
repository, makes its environment as `make run` does, without pip's cache, and measures that apart.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright
from product import ROOT, Product, describe_machine, print_table

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Runs before the page's own scripts. Times are those after the second frame, when what was drawn is on the screen.
WATCH = """
const painted = (then) => requestAnimationFrame(() => requestAnimationFrame(() => then(performance.now())));
const task = () => document.querySelector(".task")?.dataset.assignment;
const isAnswerShown = () => document.querySelector(".task .answer")?.getClientRects().length > 0;
const when = (condition) => new Promise((then) => {
  const look = () => (condition() ? painted(then) : requestAnimationFrame(look));
  look();
});
window.ready = when(() => "ready" in (document.documentElement?.dataset ?? {}) && isAnswerShown());
window.next = new Promise((then) => {
  addEventListener("keydown", async (event) => {
    if (event.key !== "Enter") return;
    const [pressed, before] = [performance.now(), task()];
    then((await when(() => task() && task() !== before && isAnswerShown())) - pressed);
  }, { capture: true });
});
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="measure the installation of a fresh clone as well")
    parser.add_argument("--loads", type=int, default=5, help="page loads and ranked tasks to take the median of")
    arguments = parser.parse_args()
    machine = describe_machine()
    rows = []
    if arguments.install:
        rows.append(("installation of a fresh clone", f"{install_seconds():.1f} s", ""))
    with Product() as product:
        rows.append(("server ready", f"{product.ready_seconds:.1f} s", "at most 10 s"))
        ready, following = measure_pages(product, arguments.loads)
    rows.append(("ranking page ready", f"{statistics.median(ready):.2f} s", "at most 1 s"))
    rows.append(("slowest load", f"{max(ready):.2f} s", ""))
    rows.append(("next task after Enter", f"{1000 * statistics.median(following):.0f} ms", "at most 100 ms"))
    rows.append(("slowest next task", f"{1000 * max(following):.0f} ms", ""))
    print(machine)
    print_table(rows)


def install_seconds():
    with tempfile.TemporaryDirectory(prefix="plumbline-install-") as folder:
        clone = Path(folder) / "plumbline"
        started = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environ = {"PIP_NO_CACHE_DIR": "1", "PIP_QUIET": "2"}
        settings = [f"{name}={value}" for name, value in environ.items()]
        subprocess.run(["env", *settings, "make", "--silent", ".venv/.installed-run"], cwd=clone, check=True)
        return time.monotonic() - started


def measure_pages(product, loads):
    """Seconds of each load of the ranking page, and of each next task after Enter."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        sys.exit("There is no Chromium on the PATH; install one: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        session = sign_in(browser, product.sign_in_link)
        ready, following = [], []
        for _ in range(loads):
            context = browser.new_context(storage_state=session)
            page = context.new_page()
            page.add_init_script(WATCH)
            page.goto(f"{product.address}/projects/stories/rank/")
            ready.append(page.evaluate("ready") / 1000)
            following.append(rank_one(page))
            context.close()
        browser.close()
    return ready, following


def sign_in(browser, link):
    context = browser.new_context()
    page = context.new_page()
    page.goto(link)
    if button := page.query_selector("main form button"):
        button.click()
        page.wait_for_load_state()
    session = context.storage_state()
    context.close()
    return session


def rank_one(page):
    """Seconds from Enter to the next task. People read first, so the next one had time to be fetched ahead."""
    page.wait_for_load_state("networkidle")
    for number in range(1, page.locator(".task .answer").count() + 1):
        page.keyboard.press(str(number))
    page.keyboard.press("Enter")
    return page.evaluate("next") / 1000


if __name__ == "__main__":
    main()
