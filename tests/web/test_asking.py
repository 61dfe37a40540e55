"""What a project asks beside the order, in a real browser and on the server: strength, a note, harm, and so on."""

import itertools

import pytest
from django.urls import reverse
from playwright.sync_api import expect

from annotation.assignment import next_assignment
from annotation.models import AuditEvent, Membership, Ranking
from annotation.projects import set_guideline
from tests.web.test_look import violations
from tests.web.test_ranking import order, press, rank_names, shown, wait_for_rankings

browser = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
LONG = tuple("\n\n".join(f"Line {line} of text {number}." for line in range(60 + number)) for number in range(3))


def ask(project, **form):
    project.ranking_form = form
    project.save()


@pytest.fixture
def sensitive(project):
    ask(project, objective="worst", warning="Cruel **stories**.")


def agree(user):
    Membership.objects.filter(user=user).update(consented_at="2026-11-20T12:00Z")


class TestInTheBrowser:
    pytestmark = browser

    def test_it_asks_how_much_better_one_of_two_is(self, make_tasks, open_ranking, project):
        ask(project, strength=True)
        make_tasks(2, k=2)
        page = open_ranking()
        strength = page.locator(".strength")
        expect(strength).to_be_hidden()
        press(page, "2")
        expect(strength).to_be_visible()
        press(page, "+", "+", "+", "-")
        expect(strength.get_by_role("radio", name="somewhat")).to_be_checked()
        expect(page.locator("#announcer")).to_have_text("somewhat better")
        press(page, "1", "=")
        expect(strength).to_be_hidden()
        press(page, "u", "Enter")
        assert wait_for_rankings(page, 1)[0].strength == 2

    def test_a_tie_has_no_strength(self, make_tasks, open_ranking, project):
        ask(project, strength=True)
        make_tasks(1, k=2)
        page = open_ranking()
        press(page, "2", "+", "=", "1", "Enter")
        ranking = wait_for_rankings(page, 1)[0]
        assert (ranking.strength, len(ranking.order)) == (None, 1)

    def test_a_note_comes_before_the_answers(self, make_tasks, open_ranking, project):
        ask(project, note="What should a good story contain?")
        make_tasks(1, k=2)
        page = open_ranking()
        expect(page.locator(".answers")).to_be_hidden()
        expect(page.get_by_label("What should a good story contain?")).to_be_focused()
        assert violations(page) == []
        page.keyboard.press("Control+Enter")
        expect(page.locator("#announcer")).to_have_text("Write your note first.")
        expect(page.locator(".answers")).to_be_hidden()
        page.keyboard.type("A fox, a kite, 1 friend.")
        page.reload()
        page.wait_for_selector("html[data-ready]")
        expect(page.get_by_label("What should a good story contain?")).to_have_value("A fox, a kite, 1 friend.")
        page.get_by_role("button", name="Show the answers").click()
        expect(page.locator(".answer")).to_have_count(2)
        expect(page.locator(".answer").first).to_be_visible()
        expect(page.get_by_label("What should a good story contain?")).to_have_attribute("readonly", "")
        press(page, "2", "1", "Enter")
        assert wait_for_rankings(page, 1)[0].note == "A fox, a kite, 1 friend."

    def test_the_most_harmful_is_chosen_first_after_consent_and_texts_are_covered(
        self, make_tasks, watched, sign_in, live_server, project, annotator, sensitive
    ):
        make_tasks(1, k=3)
        sign_in(annotator)
        page = watched
        page.goto(f"{live_server.url}/projects/{project.slug}/rank/")
        expect(page.locator("main strong")).to_have_text("stories")
        assert violations(page) == []
        page.get_by_role("button", name="I agree to see such texts").click()
        page.wait_for_selector("html[data-ready]")
        text = page.locator(".answer__text [data-rendered]").first
        expect(text).to_be_hidden()
        expect(page.locator(".turn--question .prose").first).to_be_hidden()
        assert violations(page) == []
        press(page, "o")
        expect(text).to_be_visible()
        expect(page.locator("#announcer")).to_have_text("All texts are open.")
        assert violations(page) == []
        cards = shown(page)
        press(page, "2", "n", "3")
        assert rank_names(page) == ["", "Most harmful", "2nd"]
        expect(page.locator("#none")).to_be_hidden()
        press(page, "Enter")
        ranking = wait_for_rankings(page, 1)[0]
        # Stored best first: the last one left is the least harmful.
        assert order(ranking, cards) == [[1], [3], [2]]
        assert not ranking.none_acceptable
        page.goto(f"{live_server.url}/projects/{project.slug}/work/")
        expect(page.locator(".work__order")).to_contain_text("2 › 3 › 1")
        page.get_by_role("link", name="Change").click()
        page.wait_for_selector("html[data-ready]")
        assert rank_names(page) == ["3rd", "Most harmful", "2nd"]

    def test_it_marks_what_differs_between_any_two(self, make_tasks, open_ranking):
        make_tasks(1, k=3, texts=("The fox flew the kite.", "The fox lost the kite.", "A <b>cat</b>."))
        page = open_ranking()
        texts = page.locator(".answer [data-rendered]").all_inner_texts()
        one, other = (texts.index(text) + 1 for text in ("The fox flew the kite.", "The fox lost the kite."))
        press(page, "d")
        marks = page.locator("#difference mark")
        for first, second in itertools.permutations((1, 2, 3), 2):  # the two typed last, whatever stood there
            press(page, str(first), str(second))
            expect(page.locator("#difference-first option:checked")).to_have_text(f"Answer {first}")
            expect(page.locator("#difference-second option:checked")).to_have_text(f"Answer {second}")
        press(page, str(one), str(other))
        expect(page.locator("#difference-body")).to_contain_text("4 words in both.")
        assert sorted(mark.split()[-2] for mark in marks.all_text_contents()) == ["flew", "lost"]
        assert violations(page) == []
        page.locator("#difference-second").select_option(label=f"Answer {6 - one - other}")
        expect(page.locator("#difference-body")).to_contain_text("<b>cat</b>.")
        press(page, "d")
        expect(page.locator("#difference")).to_be_hidden()
        assert rank_names(page) == ["", "", ""]

    def test_long_answers_stand_in_columns_that_scroll_together(self, make_tasks, open_ranking):
        make_tasks(1, k=3, texts=LONG)
        page = open_ranking()
        texts = page.locator(".answer__text")
        heights = "texts => texts.map((text) => text.clientHeight)"
        short = texts.evaluate_all(heights)
        assert len(set(short)) == 1 and short[0] < 800
        press(page, "ArrowDown", "ArrowDown")
        together = """top => {
            const tops = [...document.querySelectorAll(".answer__text")].map((text) => text.scrollTop);
            return tops[0] > 0 && tops.every((other) => other === (top || tops[0]));
        }"""
        page.wait_for_function(together)
        # Again and again: the two steps before may still glide.
        scroll = "document.querySelectorAll('.answer__text')[1].scrollTop = top;"
        page.wait_for_function(together.replace("{", "{" + scroll, 1), arg=500, polling=100)
        assert violations(page) == []
        press(page, "h")
        assert min(texts.evaluate_all(heights)) > 1500
        press(page, "h")
        assert texts.evaluate_all(heights) == short
        page.set_viewport_size({"width": 360, "height": 740})
        tall = "() => [...document.querySelectorAll('.answer__text')].every((text) => text.clientHeight > 1500)"
        page.wait_for_function(tall)

    def test_it_says_when_the_guidelines_changed_and_records_those_that_were_read(
        self, make_tasks, open_ranking, project, admin
    ):
        set_guideline(project, text="Prefer kind endings.", created_by=admin)
        make_tasks(3, k=2)
        page = open_ranking()
        page.wait_for_timeout(300)
        set_guideline(project, text="Prefer funny endings.", created_by=admin)
        press(page, "1", "2", "Enter")
        wait_for_rankings(page, 1)
        page.wait_for_timeout(300)
        press(page, "1", "2", "Enter")
        expect(page.locator("#notice")).to_contain_text("The guidelines have changed")
        assert {ranking.guideline_version for ranking in wait_for_rankings(page, 2)} == {1}
        page.get_by_role("link", name="Read them").click()
        page.wait_for_selector("html[data-ready]")
        expect(page.locator("#notice")).to_be_hidden()
        expect(page.get_by_text("Prefer funny endings.")).to_be_visible()


@pytest.mark.django_db
class TestOnTheServer:
    def test_no_text_is_shown_before_consent(self, client_for, api_for, annotator, make_tasks, project, sensitive):
        make_tasks(1)
        client = client_for(annotator)
        rank, consent = (reverse(f"annotation:{name}", args=[project.slug]) for name in ("rank", "consent"))
        assert client.get(rank)["Location"] == consent
        assert client.post(reverse("annotation:rank_task", args=[project.slug])).status_code == 403
        assert api_for(annotator).post("/api/v1/projects/stories/next/").status_code == 403
        lease = next_assignment(project, annotator=annotator)
        for name, of_task in (("practice", []), ("questions", []), ("work", []), ("ask_question", [lease.pk])):
            assert client.get(reverse(f"annotation:{name}", args=[project.slug, *of_task]))["Location"] == consent, name
        assert client.post(reverse("annotation:difference", args=[project.slug, lease.pk])).status_code == 403
        assert client.post(consent, {"agrees": "0"})["Location"] == reverse("home")
        assert client.get(rank).status_code == 302
        assert client.post(consent, {"agrees": "1"})["Location"] == rank
        assert client.get(rank).status_code == 200
        client.post(consent, {"agrees": "0"})
        assert client.get(rank).status_code == 302
        actions = ["consent.given", "consent.withdrawn"]
        assert sorted(AuditEvent.objects.values_list("action", flat=True)) == actions

    def test_simulated_annotators_need_no_consent(self, api_for, annotator, make_tasks, sensitive):
        Membership.objects.filter(user=annotator).update(simulated=True)
        make_tasks(1)
        assert api_for(annotator).post("/api/v1/projects/stories/next/").status_code == 200

    def test_the_form_without_scripts_sends_it_all(self, client_for, annotator, make_tasks, project):
        ask(project, objective="worst", strength=True, note="Why?")
        agree(annotator)
        make_tasks(1, k=2)
        client = client_for(annotator)
        rank = reverse("annotation:rank", args=[project.slug])
        page = client.get(rank)
        first, second = page.context["assignment"].presented_order
        posted = {
            "assignment": str(page.context["assignment"].pk),
            "client_id": "c",
            "strength": "3",
            "note": "Because.",
        }
        assert client.post(rank, posted | {f"place-{first}": "1", f"place-{second}": "2"}).status_code == 302
        ranking = Ranking.objects.get()
        assert ranking.order == [[second], [first]]
        assert (ranking.strength, ranking.note) == (3, "Because.")

    def test_without_scripts_the_answers_are_not_sent_before_the_note(self, client_for, annotator, make_tasks, project):
        ask(project, note="What should it contain?")
        make_tasks(1, k=2, texts=("The kite flew away.", "The fox went home."))
        client = client_for(annotator)
        rank = reverse("annotation:rank", args=[project.slug])
        page = client.get(rank)
        assignment = page.context["assignment"]
        asked = {"assignment": str(assignment.pk), "client_id": "c", "action": "note"}
        empty = client.post(rank, asked | {"note": " "})
        assert (empty.status_code, empty.context["error"]) == (400, "Write your note first.")
        for before in (page, empty):
            text = before.content.decode()
            assert "What should it contain?" in text
            assert not any(secret in text for secret in ("kite flew", "went home", "place-", "flag-"))
        noted = client.post(rank, asked | {"note": "A friend."}).content.decode()
        assert "The kite flew away." in noted and "readonly>A friend.</textarea>" in noted
        refused = client.post(rank, asked | {"note": "A friend.", "action": "submit"})
        assert refused.status_code == 400 and "A friend.</textarea>" in refused.content.decode()
        first, second = assignment.presented_order
        places = {f"place-{first}": "1", f"place-{second}": "2", "note": "A friend.", "action": "submit"}
        assert client.post(rank, asked | places).status_code == 302
        assert Ranking.objects.get().note == "A friend."
        task = client.post(reverse("annotation:rank_task", args=[project.slug]))
        assert task.status_code == 204

    def test_the_difference_is_of_ones_own_task_only(
        self, client_for, annotator, second_annotator, outsider, make_tasks, project
    ):
        make_tasks(1)
        assignment = next_assignment(project, annotator=annotator)
        first, second = assignment.presented_order[:2]
        url = reverse("annotation:difference", args=[project.slug, assignment.pk])
        pair = f"?first={first}&second={second}"
        assert client_for(annotator).post(url + pair).status_code == 200
        for person in (second_annotator, outsider):
            assert client_for(person).post(url + pair).status_code == 404
        for odd in ("", f"?first={first}", f"?first={first}&second=x", f"?first={first}&second={assignment.pk}"):
            assert client_for(annotator).post(url + odd).status_code == 404

    def test_an_outsider_is_not_asked_for_consent(self, client_for, outsider, project, sensitive):
        assert client_for(outsider).get(reverse("annotation:consent", args=[project.slug])).status_code == 404
