"""What holds for every page: accessible in both themes, light to load, nothing from elsewhere, hashed assets."""

import gzip
import hashlib
import io
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.urls import get_resolver, reverse
from playwright.sync_api import expect

from annotation import known_answers, quarantine
from annotation.models import Membership
from annotation.projects import create_invitation, set_guideline
from annotation.prompts import import_prompts
from annotation.proposals import propose_prompt
from plumbline import tokens
from tests.web import dashboard_story as story

STATIC = Path(finders.find("css/tokens.css")).parent.parent
KNOWN = (Path(__file__).resolve().parents[1] / "golden" / "rankings_v1.jsonl").read_bytes()
MAX_PAGE_BYTES = 120 * 1024  # compressed, everything that the ranking page loads
AXE_OPTIONS = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}

SCROLLS = "boxes => boxes.some((box) => box.scrollWidth > box.clientWidth)"


def violations(page):
    # A colour half way through its change is nobody's fault.
    page.evaluate("Promise.all(document.getAnimations().map((animation) => animation.finished))")
    found = Axe().run(page, options=AXE_OPTIONS).response["violations"]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]


def addresses(project):
    """(name, address) of every page of ours that needs no more than a project's short name."""
    waiting = [(pattern, "") for pattern in get_resolver().url_patterns]
    for pattern, namespace in waiting:
        if str(pattern.pattern) in ("admin/", "api/v1/"):
            continue
        if hasattr(pattern, "url_patterns"):
            inner = f"{pattern.app_name}:" if pattern.app_name else namespace
            waiting += [(child, inner) for child in pattern.url_patterns]
        elif set(pattern.pattern.converters) <= {"slug"}:
            arguments = [project.slug] if pattern.pattern.converters else []
            yield pattern.name, reverse(namespace + pattern.name, args=arguments)


def fill(project, admin, make_tasks):
    """Something on every page."""
    project.ranking_form = {"overall": True, "write_answers": True, "write_prompts": True}
    project.save()
    admin.is_staff = True
    admin.save()
    make_tasks(1)
    set_guideline(project, text="# What to look for\n\n- a kind ending", created_by=admin)
    create_invitation(project, created_by=admin, note="Ann")
    propose_prompt(project, author=admin, text="Tell a story about $x^2$ herons.")
    known_answers.import_file(project, file=io.BytesIO(KNOWN), name="known", actor=admin)
    import_prompts(project, name="sft", file=io.BytesIO(b'{"prompt": "Tell a story."}'), pool="sft")
    quarantine.suspect(Membership.objects.get(project=project, user=admin), note="Always the first one.")
    tokens.create_token(admin, name="my laptop")
    story.add_prompts(project)
    story.add_policy(project)
    story.finished_round(project)


@pytest.fixture(params=["light", "dark"])
def theme(request, page):
    page.emulate_media(color_scheme=request.param, reduced_motion="reduce")
    return request.param


@pytest.mark.browser
@pytest.mark.django_db(transaction=True)
class TestInTheBrowser:
    def test_axe_finds_nothing_on_the_ranking_page(self, theme, make_tasks, open_ranking, project, admin):
        set_guideline(project, text="# What to look for\n\n- a kind ending", created_by=admin)
        project.ranking_form = {"overall": True}
        project.save()
        make_tasks(1, k=5)
        page = open_ranking()
        guidelines = page.locator("#guidelines")
        expect(guidelines).to_be_visible()  # who is new here sees them first
        assert violations(page) == []
        page.keyboard.press("g")
        expect(guidelines).to_be_hidden()
        for key in ("4", "1", "=", "2", "3", "f"):
            page.keyboard.press(key)
        assert violations(page) == []
        for opened in ("?", "g", "s"):
            page.keyboard.press("Escape")
            page.locator("h1").evaluate("heading => document.activeElement.blur()")
            page.keyboard.press(opened)
            expect(page.locator("dialog[open]")).to_be_visible()
            assert violations(page) == []

    def test_axe_finds_nothing_on_a_phone(self, theme, make_tasks, open_ranking, page):
        page.set_viewport_size({"width": 390, "height": 800})
        make_tasks(1)
        page = open_ranking()
        page.locator("#tray .chip").first.click()
        assert violations(page) == []

    @pytest.mark.parametrize(
        "k, form",
        [(9, {}), (3, {"objective": "worst", "rationale": True}), (2, {"note": "What should it contain?"})],
    )
    def test_it_is_never_wider_than_a_phone(self, make_tasks, open_ranking, project, annotator, page, k, form):
        page.set_viewport_size({"width": 360, "height": 740})
        project.ranking_form = form
        project.save()
        Membership.objects.filter(user=annotator).update(consented_at="2026-11-20T12:00Z")
        make_tasks(1, k=k)
        page = open_ranking()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for key in "123":
            page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") == 360

    def test_the_projects_name_gives_way_to_the_progress(self, make_tasks, open_ranking, project, annotator, page):
        page.set_viewport_size({"width": 768, "height": 1024})
        project.name = "Stories for children who cannot sleep, told by a fox"
        project.save()
        set_guideline(project, text="Kind endings.", created_by=annotator)
        make_tasks(1)
        page = open_ranking()
        page.locator("#progress-pace").evaluate("pace => (pace.textContent = ' · 41 s each')")  # as after some work
        right = page.locator(".header__path > *").evaluate_all(
            "parts => Math.max(...parts.map((part) => part.getBoundingClientRect().right))"
        )
        assert right < page.locator("#progress").evaluate("progress => progress.getBoundingClientRect().left")

    def test_axe_finds_nothing_when_nothing_waits(self, theme, open_ranking):
        page = open_ranking()
        expect(page.locator("#empty")).to_be_visible()
        assert violations(page) == []

    def test_axe_finds_nothing_on_any_page(
        self, theme, watched, sign_in, client_for, live_server, project, admin, make_tasks
    ):
        """Every page that needs no more than a project's short name, with content; and none is wider than a phone."""
        fill(project, admin, make_tasks)
        sign_in(admin)
        client = client_for(admin)
        visited, failed = set(), {}
        for name, url in addresses(project):
            answer = client.get(url)
            if answer.status_code != 200 or not answer["Content-Type"].startswith("text/html"):
                continue  # only takes a POST, sends one elsewhere, or is a file
            visited.add(name)
            watched.set_viewport_size({"width": 1280, "height": 800})
            watched.goto(live_server.url + url)
            failed[name] = violations(watched)
            watched.set_viewport_size({"width": 360, "height": 740})
            if watched.evaluate("document.documentElement.scrollWidth") > 360:
                failed[name].append("wider than a phone")
            if watched.locator(".table-wrap").evaluate_all(SCROLLS):
                failed[name].append("a table scrolls sideways on a phone")
        assert {name: found for name, found in failed.items() if found} == {}
        assert visited >= {
            "home",
            "rank",
            "work",
            "write_answer",
            "settings",
            "dashboard",
            "checkpoints",
            "new_project",
        }
        assert len(visited) >= 20

    def test_axe_finds_nothing_on_the_sign_in_page(self, theme, watched, live_server, transactional_db):
        watched.goto(live_server.url + reverse("account_login"))
        assert violations(watched) == []

    def test_the_switch_changes_the_theme_and_it_stays(self, open_ranking, page):
        page.emulate_media(color_scheme="light")
        page = open_ranking()
        paper = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.evaluate(paper)
        page.get_by_label("Switch between dark and light").click()
        dark = page.evaluate(paper)
        assert dark != light
        page.reload()
        assert page.evaluate(paper) == dark

    def test_the_ranking_page_is_light_to_load(self, make_tasks, sign_in, annotator, live_server, project, page):
        make_tasks(1)
        sign_in(annotator)
        responses = []
        page.on("response", lambda response: responses.append(response))
        page.goto(live_server.url + reverse("annotation:rank", args=[project.slug]), wait_until="networkidle")
        sizes = {
            response.url: len(gzip.compress(response.body()))
            for response in responses
            if response.request.method == "GET" and response.ok
        }
        assert len(sizes) > 8
        assert sum(sizes.values()) < MAX_PAGE_BYTES, sizes

    @pytest.mark.parametrize("seed", range(3))
    def test_the_order_keeps_its_rules_under_any_steps(self, live_server, page, seed):
        """Random steps: every card stands once, at most; no group is empty; undo leads back to the beginning."""
        page.goto(f"{live_server.url}/healthy/")
        failure = page.evaluate(
            """async ([url, seed]) => {
                const State = await import(url);
                let random = seed + 1;
                const draw = (n) => (random = (random * 48271) % 2147483647) % n;
                const cards = ["a", "b", "c", "d", "e"];
                const { place, toggleTie, moveEarlier, moveLater, remove } = State;
                const steps = [place, place, toggleTie, moveEarlier, moveLater, remove];
                for (let round = 0; round < 300; round++) {
                    let state = State.create(cards);
                    for (let step = 0; step < 25; step++) {
                        state = steps[draw(steps.length)](state, cards[draw(5)]);
                        const flat = state.groups.flat();
                        if (new Set(flat).size !== flat.length) return "twice " + JSON.stringify(state);
                        if (state.groups.some((group) => group.length === 0)) return "empty " + JSON.stringify(state);
                        if (flat.length + State.unplaced(state).length !== 5) return "lost " + JSON.stringify(state);
                    }
                    for (let step = 0; step < 60; step++) state = State.undo(state);
                    if (state.groups.length !== 0) return "undo " + JSON.stringify(state);
                }
                return null;
            }""",
            [f"{live_server.url}/static/js/ranking/state.js", seed],
        )
        assert failure is None


def test_vendored_files_are_those_of_the_table():
    table = (STATIC / "vendor" / "README.md").read_text()
    rows = re.findall(r"^\| (\S+) \| \S+ \| \S+ \| .*?\((\S+)\) \| ([0-9a-f]{64}) \|$", table, re.MULTILINE)
    listed = {name: digest for name, _licence, digest in rows}
    kept = {path.name for path in (STATIC / "vendor").iterdir()}
    assert kept == set(listed) | {licence for _name, licence, _digest in rows} | {"README.md"}
    for name, digest in listed.items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest


def test_pages_load_hashed_files_only(settings, tmp_path):
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": "plumbline.storage.HashedStaticFiles"}}
    call_command("collectstatic", verbosity=0, interactive=False)
    main = next(tmp_path.glob("js/ranking/main.*.js")).read_text()
    imports = re.findall(r'from "(\./[^"]+)"', main)
    assert len(imports) >= 5
    assert all(re.fullmatch(r"\./\w+\.[0-9a-f]{12}\.js", name) for name in imports)


def test_templates_hold_no_inline_script_or_style(settings):
    for template in Path(settings.TEMPLATE_DIR).rglob("*.html"):
        text = template.read_text()
        assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", text), template
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), template
        assert not re.search(r"""(?:src|href)=["']https?:""", text), template
