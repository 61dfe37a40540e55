"""What a person sees of their own work: found by words, counted, timed, compared with others; and nobody else's."""

import pytest

from annotation import assignment, own_work, rankings

pytestmark = pytest.mark.django_db


@pytest.fixture
def rank(project):
    """rank(user, order=None, **fields) -> the Ranking of the next task, in the order of its positions unless given."""

    def make(user, *, order=None, **fields):
        lease = assignment.next_assignment(project, annotator=user)
        ids = [str(entry.completion_id) for entry in lease.task.entries.order_by("position")]
        groups = [[ids[index]] for index in order or range(len(ids))]
        return rankings.submit_ranking(lease, annotator=user, client_id=str(lease.pk), order=groups, **fields)[0]

    return make


def test_it_finds_rankings_by_words_of_the_request_and_the_reason(project, annotator, make_prompts, make_task, rank):
    for prompt in make_prompts("Über einen FUCHS im Garten.", "About a kite."):
        make_task(prompt)
    by_prompt = {}
    for reason in ("", "Invented facts"):
        made = rank(annotator, rationale=reason)
        by_prompt[made.task.prompt.messages[0]["content"][0]] = made
    found = lambda words: set(own_work.own_rankings(project, annotator, words=words))  # noqa: E731
    assert found("über fuchs") == {by_prompt["Ü"]}
    assert found("KITE about") == {by_prompt["A"]}
    assert {made.rationale for made in found("invented")} == {"Invented facts"}
    assert found("fuchs kite") == set()
    assert found("  ") == set(by_prompt.values())


def test_it_counts_time_and_pace_and_what_is_left(project, annotator, second_annotator, make_tasks, rank):
    make_tasks(5)
    for seconds in (10.0, 20.0, 60.0):
        rank(annotator, seconds=seconds)
    found = own_work.figures(project, annotator)
    # 10 + 20 + 60 = 90 s = 1.5 min = 0.025 h; the middle one is 20 s.
    for period in found["periods"]:
        assert (period["count"], period["minutes"], period["hours"], period["pace"]) == (3, 1.5, 0.025, 20.0)
    assert found["left"] == 2
    assert found["agreement"] is None
    assert own_work.figures(project, second_annotator)["periods"][0]["count"] == 0


def test_it_compares_with_others_pair_by_pair(project, annotator, second_annotator, make_tasks, rank):
    make_tasks(4, overlap=2)
    for _task in range(4):
        rank(annotator)
        # Of the six pairs of 0 1 2 3, the order 1 0 2 3 turns one round.
        rank(second_annotator, order=[1, 0, 2, 3])
    found = own_work.agreement_with_others(project, annotator)
    # 4 tasks of 6 pairs; 20 of 24 alike = 83%.
    assert (found["percent"], found["pairs"]) == (83, 24)
    assert found["low_percent"] < 83 < found["high_percent"]
    assert own_work.agreement_with_others(project, second_annotator)["percent"] == 83


def test_the_page_shows_all_of_it(project, annotator, client_for, make_tasks, rank):
    make_tasks(3)
    rank(annotator, seconds=90.0)
    page = client_for(annotator).get(f"/projects/{project.slug}/work/").content.decode()
    assert "2 tasks wait for you." in page
    assert "90 s" in page
    empty = client_for(annotator).get(f"/projects/{project.slug}/work/", {"words": "nothing\x00such"}).content.decode()
    assert "None of your rankings has all of these words." in empty


def test_an_outsider_sees_no_work(project, outsider, client_for):
    assert client_for(outsider).get(f"/projects/{project.slug}/work/").status_code == 404
