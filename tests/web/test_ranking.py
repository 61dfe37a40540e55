"""The ranking page in a real browser: every way to make an order, and everything that may go wrong on the way."""

import math
import re

import pytest
from playwright.sync_api import expect

from annotation.models import Assignment, AssignmentState, Demonstration, Ranking
from tests.hostile.texts import HOSTILE_TEXTS

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def shown(page):
    """Completion ids of the cards, in the order shown."""
    return page.locator(".answer").evaluate_all("cards => cards.map((card) => card.dataset.completion)")


def rank_names(page):
    return page.locator(".answer__rank").all_inner_texts()


def order(ranking, cards):
    """A stored order by the numbers of the cards, tie groups sorted."""
    return [sorted(cards.index(key) + 1 for key in group) for group in ranking.order]


def wait_for_rankings(page, count):
    """The rankings, once the server has them; a sent one leaves the outbox empty."""
    for _attempt in range(100):
        if Ranking.objects.count() >= count:
            break
        page.wait_for_timeout(50)
    assert Ranking.objects.count() == count
    return list(Ranking.objects.order_by("created_at"))


def wait_for_demonstration(page):
    for _attempt in range(100):
        if Demonstration.objects.exists():
            break
        page.wait_for_timeout(50)
    return Demonstration.objects.get()


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def test_it_ranks_by_keyboard_and_shows_the_next_task(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    cards = shown(page)
    press(page, "3", "1", "4", "2")
    assert rank_names(page) == ["2nd", "4th", "Best", "3rd"]
    press(page, "Enter")
    ranking = wait_for_rankings(page, 1)[0]
    assert order(ranking, cards) == [[3], [1], [4], [2]]
    assert ranking.is_counted and ranking.seconds is not None and ranking.source == "annotator"
    expect(page.locator(".turn--question")).to_contain_text("(2)")
    expect(page.locator("#toast")).to_contain_text("Ranking saved.")
    expect(page.locator("#progress")).to_contain_text("1 of 60 today")


def test_it_shows_the_next_task_within_100_ms(make_tasks, open_ranking):
    make_tasks(5)
    page = open_ranking()
    fastest = math.inf  # of three: the machine may be busy with something else
    for done in range(1, 4):
        page.wait_for_selector("html[data-ahead]")
        press(page, "1", "2", "3", "4")
        milliseconds = page.evaluate(
            """async () => {
                const before = document.querySelector(".task");
                const started = performance.now();
                document.getElementById("ranking-form").requestSubmit();
                while (document.querySelector(".task") === before || !document.querySelector(".task")) {
                    await new Promise((resolve) => setTimeout(resolve, 1));
                }
                document.body.getBoundingClientRect();
                return performance.now() - started;
            }"""
        )
        fastest = min(fastest, milliseconds)
        wait_for_rankings(page, done)
    assert fastest < 100


def test_it_puts_the_only_card_left_last(make_tasks, open_ranking):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    press(page, "2", "3", "Enter")
    assert order(wait_for_rankings(page, 1)[0], cards) == [[2], [3], [1]]


def test_it_says_how_to_begin_until_one_has_begun(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    expect(page.locator("#order-hint")).to_have_text(re.compile("Press their numbers, best first"))
    press(page, "2")
    expect(page.locator("#order-hint")).to_be_hidden()
    press(page, "u")
    expect(page.locator("#order-hint")).to_be_visible()


def test_it_ties_with_the_equals_key(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    cards = shown(page)
    press(page, "3", "1", "=", "4")
    assert rank_names(page) == ["2nd, tied", "", "Best", "2nd, tied"]
    press(page, "Enter")
    assert order(wait_for_rankings(page, 1)[0], cards) == [[3], [1, 4], [2]]


def test_it_moves_with_the_arrows_through_ties(make_tasks, open_ranking):
    make_tasks(1, k=3)
    page = open_ranking()
    press(page, "1", "2", "3", "ArrowLeft")
    assert rank_names(page) == ["Best", "2nd, tied", "2nd, tied"]
    press(page, "ArrowLeft")
    assert rank_names(page) == ["Best", "3rd", "2nd"]
    press(page, "ArrowRight", "ArrowRight")
    assert rank_names(page) == ["Best", "2nd", "3rd"]


def test_it_undoes_and_removes(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    press(page, "2", "4", "u")
    assert rank_names(page) == ["", "Best", "", ""]
    press(page, "3", "Backspace", "2", "Delete")
    assert rank_names(page) == ["", "", "", ""]
    expect(page.locator("#tray .chip")).to_have_count(4)


def test_it_ranks_by_click_and_leaves_text_selectable(make_tasks, open_ranking):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    page.locator(".answer").nth(1).locator(".answer__text").click()
    page.locator("#tray .chip", has_text="3").click()
    page.locator(".answer").nth(0).locator("p").first.dblclick()  # selects a word, which is no further order
    assert rank_names(page) == ["3rd", "Best", "2nd"]
    page.locator("#submit").click()
    assert order(wait_for_rankings(page, 1)[0], cards) == [[2], [3], [1]]


def wait_for_room(target, nudge):
    """Waits until the list makes room for what is dragged above it; nudge() moves it there a little."""
    ghost = target.locator(".chip--ghost")
    for _attempt in range(40):
        if ghost.count():
            break
        target.page.wait_for_timeout(50)
        nudge()
    expect(ghost).to_have_count(1)


def drag(page, source, target, *, x=0.5):
    start, end = source.bounding_box(), target.bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + start["width"] / 2 + 8, start["y"] + start["height"] / 2, steps=3)
    end = target.bounding_box() or end  # the gaps widen while one drags
    page.mouse.move(end["x"] + end["width"] * x, end["y"] + end["height"] / 2, steps=12)
    wait_for_room(target, lambda: page.mouse.move(end["x"] + end["width"] * x, end["y"] + end["height"] / 2, steps=2))
    page.mouse.up()
    expect(page.locator("#bar")).not_to_have_attribute("data-dragging", "")


def test_it_ranks_by_drag_on_the_strip(make_tasks, open_ranking):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    press(page, "1", "2", "3")
    strip = page.locator("#strip")
    drag(page, strip.locator(".chip", has_text="3"), strip.locator(".order__gap").first)
    assert rank_names(page) == ["2nd", "3rd", "Best"]
    drag(page, strip.locator(".chip", has_text="2"), strip.locator(".order__ties", has_text="1"), x=0.8)
    assert rank_names(page) == ["2nd, tied", "2nd, tied", "Best"]
    press(page, "Enter")
    assert order(wait_for_rankings(page, 1)[0], cards) == [[3], [1, 2]]


def test_cards_never_move_while_one_ranks(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    boxes = "cards => cards.map((card) => JSON.stringify(card.getBoundingClientRect()))"
    before = page.locator(".answer").evaluate_all(boxes)
    press(page, "4", "2", "=", "1", "3", "n")
    assert page.locator(".answer").evaluate_all(boxes) == before


def test_it_says_that_none_is_acceptable(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    press(page, "n", "Enter")
    ranking = wait_for_rankings(page, 1)[0]
    assert ranking.none_acceptable and ranking.order == [] and len(ranking.unranked) == 4


def test_an_untouched_order_asks_before_it_is_sent(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    press(page, "Enter")
    expect(page.locator("#ask-dialog")).to_contain_text("Nothing is ranked yet")
    page.get_by_role("button", name="Keep ranking").last.click()
    assert Ranking.objects.count() == 0
    press(page, "Enter")
    page.get_by_role("button", name="All equally good").click()
    assert [len(group) for group in wait_for_rankings(page, 1)[0].order] == [4]


def test_it_asks_about_cards_without_a_place(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    cards = shown(page)
    press(page, "1", "2", "Enter")
    expect(page.locator("#ask-dialog")).to_contain_text("2 answers have no place yet")
    page.get_by_role("button", name="Leave them out").click()
    ranking = wait_for_rankings(page, 1)[0]
    assert order(ranking, cards) == [[1], [2]]
    assert sorted(ranking.unranked) == sorted(cards[2:])


def test_it_takes_a_sent_ranking_back_as_a_new_version(make_tasks, open_ranking):
    make_tasks(2, k=2)
    page = open_ranking()
    cards = shown(page)
    press(page, "1", "2", "Enter")
    wait_for_rankings(page, 1)
    page.locator("#toast-undo").click()
    assert shown(page) == cards
    expect(page.locator("#progress")).to_contain_text("1 of 60 today")
    press(page, "u", "u", "2", "1", "Enter")
    first, second = wait_for_rankings(page, 2)
    assert (first.version, first.is_current) == (1, False)
    assert (second.version, second.is_current, order(second, cards)) == (2, True, [[2], [1]])
    expect(page.locator(".turn--question")).to_contain_text("(2)")
    expect(page.locator("#progress")).to_contain_text("1 of 60 today")


def test_it_skips_with_a_reason(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    assignment = page.locator(".task").get_attribute("data-assignment")
    press(page, "s", "2")
    expect(page.locator(".turn--question")).to_contain_text("(2)")
    for _attempt in range(60):
        skipped = Assignment.objects.get(pk=assignment)
        if skipped.state == AssignmentState.SKIPPED:
            break
        page.wait_for_timeout(50)
    assert (skipped.state, skipped.skip_reason) == (AssignmentState.SKIPPED, "The request makes no sense")


def test_it_sends_flags_reasons_ratings_and_a_better_answer(make_tasks, open_ranking, project):
    project.ranking_form = {"overall": True, "axes": [{"key": "kind", "label": "Kindness"}]}
    project.save()
    make_tasks(1, k=2)
    page = open_ranking()
    cards = shown(page)
    press(page, "2", "f")
    page.get_by_label("makes things up").nth(1).check()
    press(page, "Escape")
    first = page.locator(".answer").first
    first.locator(".rating").nth(1).get_by_role("radio", name="6").check()
    first.get_by_text("Improve").click()
    first.get_by_role("textbox").fill("A fox and a kite met, and both were glad.")
    page.get_by_text("Say why").click()
    expect(page.get_by_label("Why this order?")).to_be_focused()
    page.keyboard.type("The second is invented.")
    page.keyboard.press("Control+Enter")
    ranking = wait_for_rankings(page, 1)[0]
    assert ranking.flags == {cards[1]: ["hallucination"]}
    assert ranking.ratings == {cards[0]: {"kind": 6}}
    assert ranking.rationale == "The second is invented."
    expect(page.locator("#empty")).to_be_visible()
    assert wait_for_demonstration(page).message["content"] == "A fox and a kite met, and both were glad."


def test_it_asks_nothing_that_the_project_does_not_ask(make_tasks, open_ranking, project):
    project.ranking_form = {"flags": [], "rationale": False, "rewrite": False}
    project.save()
    make_tasks(1)
    page = open_ranking()
    assert page.locator("main .extra, main .rating").count() == 0


def test_it_says_where_a_ranking_is_when_the_server_does_not_answer(make_tasks, open_ranking):
    make_tasks(2)
    page = open_ranking()
    page.wait_for_selector("html[data-ahead]")
    page.route("**/ranking/", lambda route: route.abort())
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.locator("#notice")).to_contain_text("One ranking waits in this browser")
    expect(page.locator("#toast-text")).to_have_text("Ranking kept here, waiting for the connection.")
    page.unroute("**/ranking/")
    wait_for_rankings(page, 1)
    page.problems.clear()  # the browser logs each call that found no connection


def test_a_ranking_made_offline_is_sent_once_when_the_connection_is_back(make_tasks, open_ranking, context):
    make_tasks(3)
    page = open_ranking()
    page.wait_for_selector("html[data-ahead]")
    context.set_offline(True)
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.locator("#notice")).to_contain_text("One ranking waits in this browser")
    press(page, "4", "3", "2", "1", "Enter")
    expect(page.locator("#notice")).to_contain_text("2 rankings wait")
    assert Ranking.objects.count() == 0
    context.set_offline(False)
    rankings = wait_for_rankings(page, 2)
    assert len({ranking.client_id for ranking in rankings}) == 2
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator(".turn--question")).to_contain_text("(3)")
    page.problems.clear()  # the browser logs each call that found no connection


def test_a_waiting_ranking_outlives_the_tab(make_tasks, open_ranking, context, live_server, project):
    make_tasks(1)
    page = open_ranking()
    context.set_offline(True)
    press(page, "1", "2", "3", "4", "Enter")
    expect(page.locator("#notice")).to_contain_text("waits in this browser")
    page.close()
    context.set_offline(False)
    later = context.new_page()
    later.goto(f"{live_server.url}/projects/{project.slug}/rank/")
    wait_for_rankings(later, 1)
    expect(later.locator("#empty")).to_be_visible()
    page.problems.clear()


def write_better_answer(page, text):
    first = page.locator(".answer").first
    first.get_by_text("Improve").click()
    first.get_by_role("textbox").fill(text)


def test_a_better_answer_outlives_a_connection_that_drops_behind_its_ranking(make_tasks, open_ranking, context):
    make_tasks(2, k=2)
    page = open_ranking()
    write_better_answer(page, "Both were glad.")
    attempts = []

    def drop_twice(route):
        attempts.append(route.request.post_data_json)
        if len(attempts) <= 2:
            route.abort()
        else:
            route.continue_()

    page.route("**/demonstrations/", drop_twice)
    page.locator(".answer__key").nth(0).click()
    page.locator(".answer__key").nth(1).click()
    page.locator("#submit").click()
    ranking = wait_for_rankings(page, 1)[0]
    assert wait_for_demonstration(page).ranking == ranking
    page.wait_for_timeout(300)
    assert len(attempts) == 3
    assert Ranking.objects.count() == Demonstration.objects.count() == 1
    page.problems.clear()  # the browser logs each call that found no connection


def test_a_better_answer_outlives_the_tab(make_tasks, open_ranking, context, live_server, project):
    make_tasks(1, k=2)
    page = open_ranking()
    write_better_answer(page, "Both were glad.")
    context.set_offline(True)
    page.locator(".answer__key").nth(0).click()
    page.locator(".answer__key").nth(1).click()
    page.locator("#submit").click()
    expect(page.locator("#notice")).to_contain_text("waits in this browser")
    page.close()
    context.set_offline(False)
    # Two tabs find the same waiting ranking, and both send it and what follows from it.
    tabs = [context.new_page(), context.new_page()]
    for tab in tabs:
        tab.goto(f"{live_server.url}/projects/{project.slug}/rank/")
    wait_for_rankings(tabs[0], 1)
    assert wait_for_demonstration(tabs[0]).message["content"] == "Both were glad."
    for tab in tabs:
        expect(tab.locator("#empty")).to_be_visible()
    tabs[0].wait_for_timeout(300)
    assert Ranking.objects.count() == Demonstration.objects.count() == 1
    page.problems.clear()


def test_a_draft_outlives_a_reload(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    press(page, "4", "2", "=", "1")
    before = rank_names(page)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert rank_names(page) == before


def test_it_asks_the_lead_about_the_task(make_tasks, open_ranking, context):
    from annotation.models import Question

    make_tasks(1, k=2)
    page = open_ranking()
    press(page, "2", "q")
    dialog = page.locator("#ask-lead")
    dialog.get_by_label("Your question").fill("Does spelling count?")
    context.set_offline(True)
    dialog.get_by_role("button", name="Send").click()
    expect(dialog.get_by_role("alert")).to_contain_text("could not be sent")
    context.set_offline(False)
    dialog.get_by_role("button", name="Send").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#toast")).to_contain_text("Your question is sent.")
    assert Question.objects.get().text == "Does spelling count?"
    assert rank_names(page) == ["", "Best"]
    page.problems.clear()  # the browser logs the call that found no connection


def test_an_expired_lease_is_said_and_the_ranking_still_kept(make_tasks, open_ranking, second_annotator, project):
    from annotation.assignment import expire_leases, next_assignment

    make_tasks(1, k=2)
    page = open_ranking()
    Assignment.objects.update(lease_expires_at="2020-01-01T00:00Z")
    assert expire_leases() == 1
    assert next_assignment(project, annotator=second_annotator) is not None
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.locator("#notice")).to_contain_text("time for this task ran out")
    press(page, "1", "2", "Enter")
    ranking = wait_for_rankings(page, 1)[0]
    assert not ranking.is_counted


def test_a_task_that_arrives_later_appears_by_itself(make_tasks, open_ranking, monkeypatch):
    monkeypatch.setattr("annotation.views.POLL_SECONDS", 0.2)
    page = open_ranking()
    expect(page.locator("#empty")).to_contain_text("Nothing waits for you")
    make_tasks(1)
    expect(page.locator(".answer")).to_have_count(4)
    press(page, "1")
    assert rank_names(page)[0] == "Best"


def test_hostile_text_is_inert(make_tasks, open_ranking):
    texts = list(HOSTILE_TEXTS.values())
    batches = [texts[start : start + 9] for start in range(0, len(texts), 9)]
    for batch in batches:
        make_tasks(1, k=9, texts=batch, question="</script><script>document.title='owned'</script> `{{7*7}}`")
    page = open_ranking()
    title = page.title()
    for number in range(1, len(batches) + 1):
        page.wait_for_selector(".answer:not([data-placed])")
        digits = [str(digit) for digit in range(1, page.locator(".answer").count() + 1)]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert (
            page.locator("#task :is(img, svg, style, iframe, form, script:not([type='application/json']))").count() == 0
        )
        press(page, "r")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        press(page, "r", *digits, "Enter")
        wait_for_rankings(page, number)
    assert page.title() == title
    # `watched` fails the test if any request left the server or the security policy had to block something.


def test_formulas_code_and_tables_are_drawn(make_tasks, open_ranking):
    make_tasks(1, k=2, texts=("Area $\\frac{1}{2}bh$\n\n|a|b|\n|-|-|\n|1|2|", "```python\ndef f(): pass\n```"))
    page = open_ranking()
    fraction = page.locator("[data-rendered] math mfrac").bounding_box()
    assert fraction["height"] > 16 > fraction["width"]
    assert page.locator("[data-rendered] td").count() == 2
    expect(page.locator("[data-rendered] .code .k").first).to_have_text("def")
    press(page, "r")
    expect(page.locator(".answer [data-plain]").get_by_text("Area $\\frac{1}{2}bh$")).to_be_visible()


def test_nothing_on_the_page_names_a_model(make_tasks, open_ranking):
    from annotation.models import Completion

    make_tasks(1)
    Completion.objects.update(generator={"kind": "checkpoint", "digest": "d1ge57"}, policy_digest="d1ge57")
    page = open_ranking()
    assert "d1ge57" not in page.content()
    assert "checkpoint" not in page.content()


def test_a_ranking_can_be_changed_from_the_list(make_tasks, open_ranking, live_server, project):
    make_tasks(1, k=3)
    page = open_ranking()
    cards = shown(page)
    press(page, "1", "2", "3", "Enter")
    wait_for_rankings(page, 1)
    page.goto(f"{live_server.url}/projects/{project.slug}/work/")
    expect(page.locator(".work__row")).to_contain_text("1 › 2 › 3")
    page.get_by_role("link", name=re.compile("^Change")).click()
    page.wait_for_selector("html[data-ready]")
    assert rank_names(page) == ["Best", "2nd", "3rd"]
    press(page, "Enter")
    expect(page.locator("#ask-dialog")).to_contain_text("Nothing has changed")
    press(page, "Escape", "3", "ArrowLeft", "ArrowLeft", "Enter")
    page.wait_for_url("**/work/")
    expect(page.locator(".work__row")).to_contain_text("1 › 3 › 2")
    assert order(Ranking.objects.get(is_current=True), cards) == [[1], [3], [2]]


def test_a_phone_shows_one_card_at_a_time(make_tasks, open_ranking, page):
    make_tasks(1)
    page.set_viewport_size({"width": 360, "height": 740})
    page = open_ranking()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    first, second = (page.locator(".answer").nth(index).bounding_box() for index in (0, 1))
    assert first["x"] >= 0 and first["x"] + first["width"] <= 360
    assert second["x"] < 360 < second["x"] + second["width"]
    bar = page.locator("#bar").bounding_box()
    assert bar["y"] + bar["height"] <= 740
    submit = page.locator("#submit").bounding_box()
    assert submit["x"] + submit["width"] <= 360
    page.locator("#tray .chip").nth(1).click()
    page.locator(".answer").first.locator("p").first.click()
    assert rank_names(page)[:2] == ["2nd", "Best"]


def test_answers_stand_one_below_the_other_by_choice(make_tasks, open_ranking):
    make_tasks(1)
    page = open_ranking()
    lefts = "cards => new Set(cards.map((card) => card.getBoundingClientRect().left)).size"
    assert page.locator(".answer").evaluate_all(lefts) == 4
    page.get_by_role("button", name="One below the other").click()
    assert page.locator(".answer").evaluate_all(lefts) == 1
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.locator(".answer").evaluate_all(lefts) == 1


@pytest.mark.parametrize("k", [2, 3, 5, 9])
def test_it_holds_two_to_nine_cards(make_tasks, open_ranking, k):
    make_tasks(1, k=k)
    page = open_ranking()
    press(page, *[str(number) for number in range(k, 0, -1)])
    assert rank_names(page)[-1] == "Best"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press(page, "Enter")
    assert len(wait_for_rankings(page, 1)[0].order) == k


class TestWithoutJavaScript:
    @pytest.fixture
    def browser_context_args(self, browser_context_args):
        return {**browser_context_args, "java_script_enabled": False}

    @pytest.fixture
    def plain_page(self, page, sign_in, annotator, live_server, project):
        def make():
            sign_in(annotator)
            page.goto(f"{live_server.url}/projects/{project.slug}/rank/")
            return page

        return make

    def test_it_ranks_with_a_form(self, make_tasks, plain_page):
        make_tasks(2, k=3)
        page = plain_page()
        task = page.locator(".task").get_attribute("data-assignment")
        for index, place in enumerate(("2", "1", "2")):
            page.locator("select").nth(index).select_option(place)
        page.get_by_role("button", name="Submit").click()
        expect(page.locator(".ranking__notice").first).to_contain_text("Your ranking is saved.")
        ranking = Ranking.objects.get()
        cards = Assignment.objects.get(pk=task).presented_order
        assert order(ranking, cards) == [[2], [1, 3]]

    def test_it_says_what_is_missing(self, make_tasks, plain_page):
        make_tasks(1)
        page = plain_page()
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("alert")).to_contain_text("Rank at least two answers")

    def test_it_skips(self, make_tasks, plain_page):
        make_tasks(1)
        page = plain_page()
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#empty")).to_be_visible()


def test_a_refused_ranking_comes_back_as_it_was(make_tasks, open_ranking, project):
    make_tasks(1)
    page = open_ranking()
    page.locator(".flags summary").first.click()
    page.locator(".flags input").first.check()
    press(page, "Escape")
    # An admin takes the flag away while the page is open.
    project.ranking_form = {"flags": [{"key": "other", "label": "Other"}]}
    project.save()
    press(page, "3", "1", "4", "2")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator("#notice")).to_contain_text("A ranking was not accepted: ")
    expect(page.locator(".answer__rank")).to_have_text(["2nd", "4th", "Best", "3rd"])
    expect(page.locator("#progress")).to_contain_text("0 of 60 today")
    cards = shown(page)
    press(page, "Enter")
    assert order(wait_for_rankings(page, 1)[0], cards) == [[3], [1], [4], [2]]
    page.problems.clear()  # the browser logs the call that was refused


def test_a_skip_that_finds_no_connection_leaves_the_task_as_it_was(make_tasks, open_ranking, context):
    make_tasks(1)
    page = open_ranking()
    page.wait_for_load_state("networkidle")
    press(page, "2")
    context.set_offline(True)
    press(page, "s", "2")
    expect(page.locator("#notice")).to_contain_text("It could not be skipped")
    context.set_offline(False)
    cards = shown(page)
    press(page, "1", "3", "4", "Enter")
    assert order(wait_for_rankings(page, 1)[0], cards) == [[2], [1], [3], [4]]
    page.problems.clear()  # the browser logs each call that found no connection
