"""The test before real work, practice with explained answers, and texts of one's own, which nobody ranks."""

import pytest
from django.urls import reverse

from annotation import assignment, demonstrations, known_answers, projects, qualification, rankings
from annotation.models import Assignment, AssignmentState, Purpose, Qualification, Ranking

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_dice(project):
    project.gold_share = project.repeat_share = 0
    project.save()


@pytest.fixture
def make_gold(make_prompts, make_task, admin):
    """make_gold(3) -> gold tasks whose known order is that of their positions."""

    def make(count, name="gold", purpose=Purpose.GOLD, **fields):
        tasks = []
        for prompt in make_prompts(*(f"{name} {number}" for number in range(count)), name=name):
            task = make_task(prompt, purpose=purpose)
            order = [[str(entry.completion_id)] for entry in task.entries.order_by("position")]
            known_answers.set_known_answer(task, order=order, actor=admin, **fields)
            tasks.append(task)
        return tasks

    return make


@pytest.fixture
def tested(project):
    project.qualification_tasks, project.qualification_percent = 2, 75
    project.save()
    return project


def rank_next(project, user, *, reverse=False):
    """The purpose of the task that came next, now ranked in the known order or the other way round; or None."""
    lease = assignment.next_assignment(project, annotator=user)
    if lease is None:
        return None
    ids = [str(entry.completion_id) for entry in lease.task.entries.order_by("position")]
    order = [[key] for key in (reversed(ids) if reverse else ids)]
    rankings.submit_ranking(lease, annotator=user, client_id=str(lease.pk), order=order)
    return lease.task.purpose


def test_a_project_without_a_test_lets_people_in(project, annotator, task, make_gold):
    make_gold(1)
    assert qualification.standing(project, annotator) is None
    assert rank_next(project, annotator) == Purpose.TRAIN


def test_who_agrees_goes_on_to_real_work(tested, annotator, task, make_gold):
    make_gold(3)
    assert [rank_next(tested, annotator) for _task in range(3)] == [Purpose.GOLD, Purpose.GOLD, Purpose.TRAIN]
    passed = Qualification.objects.get()
    assert (passed.passed, passed.tasks, passed.agreement) == (True, 2, 1.0)
    assert qualification.standing(tested, annotator) is None


def test_who_does_not_agree_gets_no_real_work_until_the_lead_says_so(tested, annotator, admin, task, make_gold):
    make_gold(4)
    # One task right, one turned round: 6 of 12 pairs, below 75%.
    purposes = [rank_next(tested, annotator, reverse=turned) for turned in (False, True)]
    assert purposes == [Purpose.GOLD, Purpose.GOLD]
    assert rank_next(tested, annotator) is None
    found = qualification.standing(tested, annotator)
    assert (found.failed, found.percent) == (True, 50)
    assert qualification.let_try_again(Qualification.objects.get(), actor=admin)
    again = [rank_next(tested, annotator) for _task in range(3)]
    assert again == [Purpose.GOLD, Purpose.GOLD, Purpose.TRAIN]
    assert Qualification.objects.get(void_at=None).passed


def test_who_skips_the_test_has_not_passed_it(tested, annotator, admin, task, make_gold):
    make_gold(2)
    for _task in range(2):
        assignment.skip(assignment.next_assignment(tested, annotator=annotator), annotator=annotator)
    assert assignment.next_assignment(tested, annotator=annotator) is None
    found = qualification.standing(tested, annotator)
    assert (found.failed, found.done, found.percent) == (True, 2, 0)


def test_a_skipped_test_task_agrees_with_nothing(tested, annotator, task, make_gold):
    make_gold(3)
    assignment.skip(assignment.next_assignment(tested, annotator=annotator), annotator=annotator)
    assert rank_next(tested, annotator) == Purpose.GOLD
    assert rank_next(tested, annotator) is None
    # One of two tasks in the known order: 6 of 12 pairs.
    assert Qualification.objects.get().agreement == 0.5


def test_no_test_task_is_loaded_beyond_the_last(tested, annotator, task, make_gold):
    make_gold(5)
    assert rank_next(tested, annotator) == Purpose.GOLD
    assignment.next_assignment(tested, annotator=annotator)
    assert assignment.next_assignment(tested, annotator=annotator, ahead=True) is None
    assert rank_next(tested, annotator) == Purpose.GOLD
    assert rank_next(tested, annotator) == Purpose.TRAIN


def test_a_new_guideline_can_ask_for_the_test_again(tested, annotator, admin, make_tasks, make_gold):
    make_gold(2)
    make_tasks(3)
    projects.set_guideline(tested, text="Kind endings.", created_by=admin)
    assert [rank_next(tested, annotator) for _task in range(3)] == [Purpose.GOLD, Purpose.GOLD, Purpose.TRAIN]
    projects.set_guideline(tested, text="Kind endings, please.", created_by=admin)
    assert rank_next(tested, annotator) == Purpose.TRAIN
    projects.set_guideline(tested, text="Sad endings.", created_by=admin, requalify=True)
    make_gold(1, name="more")
    # One task is left that this person has not met: the test is as long as that.
    assert [rank_next(tested, annotator) for _task in range(2)] == [Purpose.GOLD, Purpose.TRAIN]
    assert sorted(Qualification.objects.values_list("guideline_version", flat=True)) == [1, 3]


def test_reviewers_and_projects_without_known_answers_are_not_tested(tested, reviewer, annotator, task):
    assert qualification.standing(tested, reviewer) is None
    assert qualification.standing(tested, annotator) is None


def test_the_pages_say_where_one_stands(tested, annotator, admin, client_for, task, make_gold):
    make_gold(4)
    client = client_for(annotator)
    rank_page = reverse("annotation:rank", args=[tested.slug])
    assert "0 of 2 tasks done" in client.get(rank_page).content.decode()
    for _task in range(2):
        rank_next(tested, annotator, reverse=True)
    assert "you agreed with 0% of the pairs" in client.get(rank_page).content.decode()
    lead = client_for(admin)
    people = reverse("annotation:members", args=[tested.slug])
    assert "not passed" in lead.get(people).content.decode()
    again = reverse("annotation:qualification_again", args=[tested.slug, Qualification.objects.get().pk])
    assert client.post(again).status_code == 403
    assert lead.post(again).status_code == 302
    assert "0 of 2 tasks done" in client.get(rank_page).content.decode()


class TestPractice:
    @pytest.fixture
    def url(self, project):
        return reverse("annotation:practice", args=[project.slug])

    def test_it_compares_and_explains_and_stores_nothing(self, client_for, annotator, url, make_gold):
        task = make_gold(2, name="try", purpose=Purpose.PRACTICE, explanation="B **misses** the point.")[0]
        client = client_for(annotator)
        assert "Task 1 of 2" in client.get(url).content.decode()
        ids = [str(entry.completion_id) for entry in task.entries.order_by("position")]
        # Of the six pairs of 1 2 3 4, the order 2 1 3 4 turns one round.
        places = dict(zip(ids, (2, 1, 3, 4), strict=True))
        shown = client.post(url, {f"place-{key}": place for key, place in places.items()}).content.decode()
        assert "You agree on 5 of 6 pairs." in shown
        assert "B <strong>misses</strong> the point." in shown
        assert not Ranking.objects.exists() and not Assignment.objects.exists()
        assert client.post(url, {f"place-{ids[0]}": "1"}).status_code == 400

    def test_practice_is_never_real_work(self, project, annotator, make_gold):
        make_gold(1, purpose=Purpose.PRACTICE)
        assert assignment.next_assignment(project, annotator=annotator) is None

    def test_it_says_so_where_there_is_none(self, client_for, annotator, outsider, url):
        assert "No practice tasks yet" in client_for(annotator).get(url).content.decode()
        assert client_for(outsider).get(url).status_code == 404


def test_nobody_ranks_a_text_of_their_own(project, annotator, second_annotator, prompt, make_task):
    message = {"role": "assistant", "content": "Once B. "}
    demonstrations.add_demonstration(project, prompt=prompt, author=annotator, message=message)
    task = make_task(prompt, "Once A.", "Once B.")
    assert assignment.next_assignment(project, annotator=annotator) is None
    assert assignment.next_assignment(project, annotator=second_annotator).task == task
    barred = Assignment.objects.get(annotator=annotator)
    assert barred.state == AssignmentState.BARRED
