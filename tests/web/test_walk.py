"""The newcomer's walk through the demo: `plumbline up --demo` with all its processes, the real engine, one browser.

Nothing stands in for anything. Only the rounds are shortened, on the page where anybody would do it.
"""

import json
import os
import re
import signal
import time
import urllib.request

import pytest
from playwright.sync_api import expect

from tests.running_up import RunningUp, end, pids_with, processes_of, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]  # two minutes on two cores
ROUND_SECONDS = 240  # some 30 on an idle laptop; a busy machine may take long
ORPHAN_SECONDS = 10
ITERATIONS = 3
SMALL = {"ppo.batch_size": 32, "evaluate.prompts": 32, "reward_model.normalise_prompts": 32}


@pytest.fixture
def start_demo(tmp_path):
    """start_demo() -> a running demo, each on the same data directory; all are ended after the test."""
    started = []

    def start():
        started.append(RunningUp(tmp_path / "data", "--demo"))
        return started[-1].wait_until_ready()

    yield start
    for running in started:
        end(running)


@pytest.fixture
def demo(start_demo):
    return start_demo()


@pytest.fixture
def newcomer(demo, page):
    """A browser that must meet no error and no address but the demo's; leaving a page drops what was on its way."""
    problems = []
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith(demo.address) or problems.append(request.url))
    page.set_default_timeout(20_000)
    yield page
    assert problems == []


def sign_in(page, demo):
    page.goto(re.search(r"http://\S+/account/sign-in/\S+/", demo.output)[0])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Stories").click()


def shorten_rounds(page):
    """On the settings page; back on the overview afterwards."""
    page.get_by_role("link", name="Training settings").click()
    for label, value in {
        "PPO iterations": ITERATIONS,
        "Reward-model epochs": 2,
        "New tasks after a round": 8,
        "Share of blind comparisons, %": 50,
        "Further settings": "\n".join(f"{key} = {value}" for key, value in SMALL.items()),
    }.items():
        page.get_by_label(label).fill(str(value))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved. The next round uses these settings.")).to_be_visible()
    page.get_by_role("link", name="Overview").click()


def rank_by_keyboard(page, count, *, done=0):
    """Ranks that many tasks; returns the completions that were shown."""
    page.wait_for_selector("html[data-ready]")
    shown = []
    for number in range(done + 1, done + count + 1):
        expect(page.locator(".answer")).to_have_count(4)
        shown += page.locator(".answer").evaluate_all("cards => cards.map((card) => card.dataset.completion)")
        for key in ("3", "1", "=", "4", "Enter"):
            page.keyboard.press(key)
        expect(page.locator("#progress")).to_contain_text(f"{number} of 60 today")
    return shown


def simulate(demo, rankings):
    done = demo.command("simulate", "stories", "--rankings", str(rankings))
    assert done.returncode == 0, done.stderr
    assert f"{rankings} simulated rankings in " in done.stdout


def go_round(page, number):
    """Starts a round on the overview and watches it to its end, on the same page all along."""
    page.evaluate("window.sameDocument = true")
    page.get_by_role("button", name=f"Start round {number}").click()
    expect(page.locator("h1")).to_contain_text(f"Round {number} is")
    page.evaluate("window.sameDocument = true")
    points = watch_points(page, "Score", until=ITERATIONS)
    assert points[0] < ITERATIONS, "the chart did not grow while one watched"
    badge = page.locator("[data-part=round-heading] .badge")
    expect(badge).to_have_text(re.compile("succeeded|failed|cancelled"), timeout=1000 * ROUND_SECONDS)
    assert badge.inner_text() == "succeeded", page.locator("h1").inner_text()
    assert page.evaluate("window.sameDocument") is True


def watch_points(page, name, *, until):
    """How many points a chart showed, each new count once."""
    figure = page.locator("[data-chart]", has=page.get_by_text(name, exact=True))
    deadline = time.monotonic() + ROUND_SECONDS
    seen = []
    while not seen or seen[-1] < until:
        assert time.monotonic() < deadline, f"{name} stays at {seen}: {page.locator('h1').inner_text()}"
        shown = int(figure.get_attribute("data-points") or 0) if figure.count() else 0
        if shown not in seen:
            seen.append(shown)
        page.wait_for_timeout(200)
    return seen


def digests_of(demo, completions):
    marks = ", ".join("?" * len(completions))
    keys = [completion.replace("-", "") for completion in completions]
    rows = demo.ask(f"SELECT DISTINCT policy_digest FROM annotation_completion WHERE id IN ({marks})", *keys)
    return {digest for (digest,) in rows}


def policies(demo):
    """{name: digest} of the policies so far."""
    return dict(demo.ask("SELECT name, digest FROM training_checkpoint WHERE role IN ('sft', 'policy')"))


def test_it_leads_a_newcomer_twice_through_the_loop(demo, newcomer):
    page = newcomer
    sign_in(page, demo)
    expect(page.locator("h1")).to_contain_text("tasks are waiting to be ranked")
    shorten_rounds(page)
    page.get_by_role("link", name="Rank answers").click()
    assert digests_of(demo, rank_by_keyboard(page, 3)) == {policies(demo)["Starter"]}
    simulate(demo, 30)

    page.get_by_role("link", name="Stories").click()
    expect(page.locator("h1")).to_contain_text("33 rankings (30 of them simulated)")
    go_round(page, 1)
    new, old = policies(demo)["Round 1: policy"], policies(demo)["Starter"]
    assert demo.ask("SELECT purpose, count(*) FROM annotation_task WHERE batch != '' GROUP BY purpose ORDER BY 1") == [
        ("eval", 4),
        ("train", 4),
    ]

    # The next tasks are the new ones, and nothing on the page tells whose answer is whose.
    page.get_by_role("link", name="Rank", exact=True).click()
    shown = rank_by_keyboard(page, 4, done=3)
    assert new in digests_of(demo, shown) <= {new, old}
    source = page.content()
    assert new not in source and old not in source and "policy" not in source.lower()
    simulate(demo, 16)

    page.get_by_role("link", name="Stories").click()
    expect(page.locator(".loop")).to_contain_text("blind pairs won")
    page.get_by_role("link", name="Decide on it").click()
    page.get_by_role("button", name="Promote").click()
    expect(page.get_by_text("Round 1: policy is promoted.", exact=True)).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    go_round(page, 2)
    assert "Round 2: policy" in policies(demo)
    parents = "SELECT parent.name FROM training_checkpoint c JOIN training_checkpoint parent ON parent.id = c.parent_id"
    assert demo.ask(f"{parents} WHERE c.name = 'Round 2: policy'") == [("Round 1: policy",)]

    page.goto("about:blank")
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(20) == 0, demo.output
    assert processes_of(demo.data_dir) == {}


def start_long_round(demo):
    """Over the API, with resume checkpoints at every step."""
    token = demo.command("token", "admin").stdout.strip()
    overrides = {**SMALL, "run.checkpoint_every_steps": 1, "ppo.iterations": 14, "reward_model.epochs": 1}
    request = urllib.request.Request(
        f"{demo.address}/api/v1/projects/stories/rounds/",
        data=json.dumps({"overrides": overrides}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=20) as answer:
        assert answer.status == 201


def attempts(demo):
    """(attempt's number, engine's pid, step that it resumed from) of the PPO run, in order."""
    return demo.ask(
        "SELECT a.number, a.pid, a.resumed_from_step FROM training_attempt a JOIN training_run r ON r.id = a.run_id "
        "WHERE r.stage = 'ppo' ORDER BY a.number"
    )


def wait_for_progress(demo, number):
    """The pid of the engine in this attempt, once it has a step to go on from."""
    sql = (
        "SELECT 1 FROM training_run r JOIN training_resumepoint p ON p.run_id = r.id "
        "WHERE r.stage = 'ppo' AND r.state = 'running' AND p.step > ?"
    )
    wait_until(lambda: len(attempts(demo)) == number, ROUND_SECONDS)
    wait_until(lambda: demo.ask(sql, attempts(demo)[-1][2]), ROUND_SECONDS)
    return attempts(demo)[-1][1]


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def test_it_goes_on_by_itself_whatever_is_killed(start_demo):
    demo = start_demo()
    simulate(demo, 20)
    start_long_round(demo)

    kill(wait_for_progress(demo, 1))

    engine = wait_for_progress(demo, 2)
    workers = pids_with(demo.data_dir, "-Q train")
    assert workers and engine in processes_of(demo.data_dir)
    for worker in workers:
        kill(worker)
    wait_until(lambda: not {engine, *workers} & set(processes_of(demo.data_dir)), ORPHAN_SECONDS)

    engine = wait_for_progress(demo, 3)
    orphans = set(processes_of(demo.data_dir)) - {demo.process.pid}
    assert engine in orphans
    demo.process.kill()
    demo.process.wait()
    wait_until(lambda: not orphans & set(processes_of(demo.data_dir)), ORPHAN_SECONDS)

    again = start_demo()
    succeeded = "SELECT 1 FROM training_{} WHERE state = 'succeeded'"
    wait_until(lambda: again.ask(succeeded.format("run") + " AND stage = 'ppo'"), ROUND_SECONDS)
    resumed = [step for _number, _pid, step in attempts(again)]
    assert resumed[0] == 0 and 0 < resumed[1] < resumed[2] < resumed[3]
    wait_until(lambda: again.ask(succeeded.format("round")), ROUND_SECONDS)
