"""The annotator's pages on the server: who may see them, what a form may say, how much they ask of the database."""

import uuid

import pytest
from django.urls import reverse

from annotation.assignment import next_assignment
from annotation.models import Assignment, Ranking
from annotation.rankings import submit_ranking

pytestmark = pytest.mark.django_db


@pytest.fixture
def rank_url(project):
    return reverse("annotation:rank", args=[project.slug])


@pytest.fixture
def ranked(make_tasks, project, annotator):
    """An assignment of the annotator's that is ranked."""
    make_tasks(1, k=2)
    assignment = next_assignment(project, annotator=annotator)
    order = [[key] for key in assignment.presented_order]
    submit_ranking(assignment, annotator=annotator, client_id="first", order=order, seconds=41)
    return assignment


def addresses(project, assignment):
    return [
        ("get", reverse("annotation:rank", args=[project.slug])),
        ("post", reverse("annotation:rank_task", args=[project.slug])),
        ("get", reverse("annotation:edit_ranking", args=[project.slug, assignment.pk])),
        ("get", reverse("annotation:work", args=[project.slug])),
    ]


def test_an_outsider_finds_nothing(client_for, outsider, project, ranked):
    client = client_for(outsider)
    for method, url in addresses(project, ranked):
        assert getattr(client, method)(url).status_code == 404, url


def test_a_visitor_is_asked_to_sign_in(client, project, ranked):
    for method, url in addresses(project, ranked):
        answer = getattr(client, method)(url)
        assert answer.status_code == 302 and answer["Location"].startswith("/account/login/"), url


def test_a_former_member_finds_nothing(client_for, annotator, project, rank_url):
    annotator.memberships.update(active=False)
    assert client_for(annotator).get(rank_url).status_code == 404


def test_nobody_changes_another_persons_ranking(client_for, second_annotator, project, ranked):
    client = client_for(second_annotator)
    edit = reverse("annotation:edit_ranking", args=[project.slug, ranked.pk])
    assert client.get(edit).status_code == 404
    posted = {"assignment": str(ranked.pk), "client_id": "x", "none_acceptable": "on"}
    assert client.post(reverse("annotation:rank", args=[project.slug]), posted).status_code == 404
    assert Ranking.objects.count() == 1


def test_a_page_loaded_twice_holds_one_task(client_for, annotator, make_tasks, rank_url):
    make_tasks(3)
    client = client_for(annotator)
    first, second = client.get(rank_url), client.get(rank_url)
    assert first.context["assignment"].pk == second.context["assignment"].pk
    assert Assignment.objects.count() == 1


def test_the_task_after_is_another_and_there_is_no_third(client_for, annotator, make_tasks, rank_url, project):
    make_tasks(4)
    client = client_for(annotator)
    client.get(rank_url)
    task_url = reverse("annotation:rank_task", args=[project.slug])
    for _repeat in range(3):
        assert client.post(task_url + "?ahead=1").status_code == 200
    assert Assignment.objects.count() == 2


def test_an_empty_queue_answers_204(client_for, annotator, project):
    assert client_for(annotator).post(reverse("annotation:rank_task", args=[project.slug])).status_code == 204


def test_pages_are_never_kept_by_a_cache(client_for, annotator, make_tasks, rank_url):
    make_tasks(1)
    assert "no-store" in client_for(annotator).get(rank_url)["Cache-Control"]


@pytest.mark.parametrize(
    "posted", [{}, {"assignment": "x"}, {"assignment": str(uuid.UUID(int=1))}, {"assignment": "\x00"}]
)
def test_a_form_for_no_assignment_is_not_found(client_for, annotator, rank_url, posted):
    assert client_for(annotator).post(rank_url, posted).status_code == 404


@pytest.mark.parametrize("place", ["", "-1", "0.5", "x", "²", "9" * 5000])
def test_a_form_with_odd_places_writes_nothing(client_for, annotator, make_tasks, rank_url, place):
    make_tasks(1, k=2)
    client = client_for(annotator)
    assignment = client.get(rank_url).context["assignment"]
    posted = {"assignment": str(assignment.pk), "client_id": "c"}
    posted[f"place-{assignment.presented_order[0]}"] = place
    assert client.post(rank_url, posted).status_code == 400
    assert Ranking.objects.count() == 0


def test_a_form_sent_twice_is_one_ranking(client_for, annotator, make_tasks, rank_url):
    make_tasks(1, k=2)
    client = client_for(annotator)
    page = client.get(rank_url)
    assignment = page.context["assignment"]
    posted = {"assignment": str(assignment.pk), "client_id": str(page.context["client_id"])}
    posted |= {f"place-{key}": str(place) for place, key in enumerate(assignment.presented_order, start=1)}
    for _repeat in range(2):
        assert client.post(rank_url, posted).status_code == 302
    assert Ranking.objects.count() == 1


def test_the_list_shows_ones_own_rankings_only(client_for, annotator, second_annotator, project, ranked):
    url = reverse("annotation:work", args=[project.slug])
    answer = client_for(annotator).get(url)
    assert [row["groups"] for row in answer.context["rows"]] == [[[1], [2]]]
    assert "41 s" in answer.content.decode()
    assert client_for(second_annotator).get(url).context["rows"] == []


def test_the_page_asks_the_database_little(client_for, annotator, make_tasks, rank_url, django_assert_max_num_queries):
    make_tasks(1, k=9)
    client = client_for(annotator)
    client.get(rank_url)
    with django_assert_max_num_queries(16):
        client.get(rank_url)
