"""From a fresh clone to the first ranked page: seconds until the server, the ranking page and the next task are ready.

    python benchmarks/first_page.py [--install] [--loads 5]

Starts `plumbline up --demo` on empty data and drives the ranking page in headless Chromium, each load in a browser
context without a cache. Ready means: the first answer is painted and the keyboard is heard; beside the clock stands the
processor time of the page's main thread, which other work on the machine hardly changes. The weight is what the server
sent, compressed as it was, the next task that is loaded ahead included. --install first clones the
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
const sizes = () => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
window.weigh = () => sizes().map((entry) => entry.encodedBodySize);
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
        ready, worked, following, sizes = measure_pages(product, arguments.loads)
    rows.append(("ranking page, as sent", f"{sum(sizes) / 1024:.0f} KB in {len(sizes)} files", "at most 120 KB"))
    rows.append(("ranking page ready", f"{statistics.median(ready):.2f} s", "at most 0.5 s"))
    rows.append(("its main thread until then", f"{statistics.median(worked):.2f} s of processor time", ""))
    rows.append(("slowest load", f"{max(ready):.2f} s", ""))
    next_seconds, next_worked = zip(*following, strict=True)
    rows.append(("next task after Enter", f"{1000 * statistics.median(next_seconds):.0f} ms", "at most 100 ms"))
    rows.append(("its main thread until then", f"{1000 * statistics.median(next_worked):.0f} ms of processor time", ""))
    rows.append(("slowest next task", f"{1000 * max(next_seconds):.0f} ms", ""))
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
    """Of each load: seconds until ready, its main thread's, and rank_one; and the last one's bytes, file by file."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        sys.exit("There is no Chromium on the PATH; install one: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        session = sign_in(browser, product.sign_in_link)
        ready, worked, following = [], [], []
        for _ in range(loads):
            context = browser.new_context(storage_state=session)
            page = context.new_page()
            page.add_init_script(WATCH)
            tools = context.new_cdp_session(page)
            tools.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(f"{product.address}/projects/stories/rank/")
            ready.append(page.evaluate("ready") / 1000)
            worked.append(main_thread_seconds(tools))
            # People read first, so the next task has time to be fetched ahead.
            page.wait_for_selector("html[data-ahead]")
            sizes = page.evaluate("weigh()")
            following.append(rank_one(page, tools))
            context.close()
        browser.close()
    return ready, worked, following, sizes


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


def main_thread_seconds(tools):
    """Processor time of the page's main thread since it began."""
    metrics = tools.send("Performance.getMetrics")["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


def rank_one(page, tools):
    """(seconds, main thread's seconds) from Enter to the next task."""
    for number in range(1, page.locator(".task .answer").count() + 1):
        page.keyboard.press(str(number))
    before = main_thread_seconds(tools)
    page.keyboard.press("Enter")
    seconds = page.evaluate("next") / 1000
    return seconds, main_thread_seconds(tools) - before


if __name__ == "__main__":
    main()
