"""The pages about one's own work, looked at by axe in both themes and at a phone's width."""

import pytest

from annotation import assignment, questions, rankings
from tests.web.test_look import violations

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.mark.parametrize(("theme", "width"), [("light", 360), ("dark", 1280)])
def test_axe_finds_nothing_on_work_questions_and_practice(
    make_tasks, watched, sign_in, live_server, project, annotator, theme, width
):
    make_tasks(2)
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[key] for key in lease.presented_order]
    rankings.submit_ranking(lease, annotator=annotator, client_id="a", order=order, seconds=7300.0)
    questions.ask_question(lease, annotator=annotator, text="Does spelling count?")
    sign_in(annotator)
    watched.emulate_media(color_scheme=theme)
    watched.set_viewport_size({"width": width, "height": 800})
    for path in ("work", "questions", "practice"):
        watched.goto(f"{live_server.url}/projects/{project.slug}/{path}/")
        assert violations(watched) == [], path
        assert watched.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
