import math
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from annotation import assignment, projects, rankings, withdrawals
from annotation.models import Assignment, Membership, Ranking

pytestmark = pytest.mark.django_db


@pytest.fixture
def lease(project, annotator, task):
    return assignment.next_assignment(project, annotator=annotator)


@pytest.fixture
def submit(lease, annotator):
    """submit(order=…, …) by the annotator; without an order the cards as they were shown."""

    def call(**fields):
        order = [[completion_id] for completion_id in lease.presented_order]
        values = {"annotator": annotator, "client_id": "c1", "order": order} | fields
        return rankings.submit_ranking(lease, **values)

    return call


def test_it_stores_the_judgment_and_what_it_was_made_under(project, submit, lease, admin, task):
    projects.set_guideline(project, text="Prefer kind endings.", created_by=admin)
    a, b, c, d = lease.presented_order
    ranking, created = submit(
        order=[[b], [a, d]],
        ratings={b: {"overall": 7}},
        flags={c: ["violent", "hallucination"]},
        rationale="b is kind.",
        strength=3,
        seconds=12.25,
    )
    ranking.refresh_from_db()
    assert created
    assert ranking.order[0] == [b]
    assert sorted(ranking.order[1]) == sorted([a, d])
    assert ranking.unranked == [c]
    assert ranking.ratings == {b: {"overall": 7}}
    assert ranking.flags == {c: ["hallucination", "violent"]}
    assert (ranking.strength, ranking.seconds, ranking.guideline_version) == (3, 12.25, 1)
    assert (ranking.version, ranking.is_counted, ranking.source) == (1, True, "annotator")
    assert ranking.presented_order == lease.presented_order
    assert ranking.prompt_set_version == task.prompt.prompt_set.version
    assert Assignment.objects.get().state == "submitted"
    assert task.slots.get().state == "done"


def test_it_gives_the_first_answer_to_the_same_body_again(submit):
    first, created = submit()
    again, created_again = submit()
    assert (created, created_again) == (True, False)
    assert again == first
    assert Ranking.objects.count() == 1


@pytest.mark.parametrize("change", [{"rationale": "x"}, {"seconds": 1}, {"strength": 2}, {"none_acceptable": True}])
def test_it_refuses_another_body_under_the_same_client_id(submit, change):
    submit()
    with pytest.raises(rankings.Conflict):
        submit(**change)
    assert Ranking.objects.count() == 1


def test_it_makes_an_edit_a_new_version(submit, lease):
    submit()
    edit, _ = submit(client_id="c2", order=[lease.presented_order])
    assert (edit.version, edit.is_current, edit.is_counted) == (2, True, True)
    assert list(Ranking.objects.order_by("version").values_list("is_current", flat=True)) == [False, True]
    first_again, created = submit()
    assert (first_again.version, created) == (1, False)


def test_it_counts_what_comes_late_where_nobody_else_took_the_slot(submit, lease, project, second_annotator):
    assignment.expire_leases(now=lease.lease_expires_at + timedelta(seconds=1))
    assert submit()[0].is_counted
    assert lease.task.slots.get().state == "done"
    assert assignment.next_assignment(project, annotator=second_annotator) is None


def test_it_keeps_what_comes_late_to_a_closed_task_as_surplus(submit, lease, admin):
    assignment.expire_leases(now=lease.lease_expires_at + timedelta(seconds=1))
    assignment.close_task(lease.task, actor=admin)
    assert not submit()[0].is_counted


def test_it_keeps_an_edit_of_surplus_uncounted(submit, lease, project, second_annotator):
    assignment.expire_leases(now=lease.lease_expires_at + timedelta(seconds=1))
    assert assignment.next_assignment(project, annotator=second_annotator).slot_id == lease.slot_id
    assert not submit()[0].is_counted
    assert not submit(client_id="c2", rationale="more")[0].is_counted


def test_it_keeps_what_arrives_after_a_skip_as_surplus(submit, lease, annotator):
    assignment.skip(lease, annotator=annotator)
    assert not submit()[0].is_counted
    assert lease.task.slots.get().state == "open"


def test_it_maps_identical_answers_back(project, annotator, make_task, prompt):
    task = make_task(prompt, "Same.", "Other.", "Same.", "Third.")
    lease = assignment.next_assignment(project, annotator=annotator)
    same, other, twin, third = (
        str(pk) for pk in task.entries.order_by("position").values_list("completion", flat=True)
    )
    assert same in lease.presented_order
    assert twin not in lease.presented_order
    ranking, _ = rankings.submit_ranking(
        lease, annotator=annotator, client_id="c", order=[[other], [same]], flags={same: ["opinion"]}
    )
    assert ranking.order == [[other], [same, twin]]
    assert ranking.unranked == [third]
    assert ranking.flags == {same: ["opinion"], twin: ["opinion"]}


def test_it_takes_none_acceptable_beside_an_order_or_alone(submit, lease):
    assert submit(none_acceptable=True, order=[])[0].unranked == [
        str(pk) for pk in lease.task.entries.order_by("position").values_list("completion", flat=True)
    ]
    assert submit(client_id="c2", none_acceptable=True)[0].order[0] == [lease.presented_order[0]]


def test_it_marks_a_simulated_members_judgment_whatever_is_claimed(submit, annotator):
    Membership.objects.filter(user=annotator).update(simulated=True)
    assert submit(source="annotator")[0].source == "simulated"


def test_an_edit_adds_its_time_and_is_no_new_ranking(submit):
    submit(seconds=40)
    edit, _ = submit(client_id="c2", rationale="again", seconds=2.5)
    assert edit.seconds == 42.5
    silent, _ = submit(client_id="c3", rationale="and again")
    assert silent.seconds == 42.5
    moment = Ranking.objects.get(version=2).created_at
    Ranking.objects.filter(version=1).update(created_at=moment - timedelta(hours=1))
    assert not Ranking.objects.in_use().first_made_after(moment - timedelta(minutes=1)).exists()
    assert Ranking.objects.in_use().first_made_after(moment - timedelta(hours=2)).get() == silent


BAD_ORDERS = {
    "nothing": [],
    "no list": "abc",
    "null": None,
    "flat": lambda ids: ids,
    "one answer": lambda ids: [[ids[0]]],
    "an empty group": lambda ids: [[ids[0]], [], [ids[1]]],
    "an answer twice in a group": lambda ids: [[ids[0], ids[0]], [ids[1]]],
    "an answer in two groups": lambda ids: [[ids[0]], [ids[1]], [ids[0]]],
    "a foreign answer": lambda ids: [[ids[0]], ["00000000-0000-4000-8000-000000000000"]],
    "a number": lambda ids: [[ids[0]], [7]],
    "an object": lambda ids: [[ids[0]], [{"id": ids[1]}]],
    "null as an answer": lambda ids: [[ids[0]], [None]],
    "a million groups": lambda ids: [[ids[0]]] * 1_000_000,
    "a huge group": lambda ids: [[ids[0]] * 1_000_000],
}


@pytest.mark.parametrize("case", BAD_ORDERS)
def test_it_refuses_an_order_that_is_none(submit, lease, case):
    order = BAD_ORDERS[case]
    order = order(lease.presented_order) if callable(order) else order
    with pytest.raises(rankings.RankingError) as caught:
        submit(order=order)
    assert caught.value.field == "ranking"
    assert not Ranking.objects.exists()
    assert Assignment.objects.get().state == "leased"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"client_id": ""}, "client_id"),
        ({"client_id": "x" * 65}, "client_id"),
        ({"client_id": "a\x00"}, "client_id"),
        ({"client_id": 7}, "client_id"),
        ({"none_acceptable": "yes"}, "none_acceptable"),
        ({"none_acceptable": None}, "none_acceptable"),
        ({"rationale": "x" * 20_001}, "rationale"),
        ({"rationale": "a\x00"}, "rationale"),
        ({"rationale": "\ud800"}, ""),
        ({"rationale": {"a": 1}}, "rationale"),
        ({"strength": 0}, "strength"),
        ({"strength": 2.5}, "strength"),
        ({"strength": True}, "strength"),
        ({"seconds": -1}, "seconds"),
        ({"seconds": math.nan}, ""),
        ({"seconds": 2**63}, "seconds"),
        ({"seconds": "5"}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"ratings": [1]}, "ratings"),
        ({"ratings": {"nobody": {"overall": 5}}}, "ratings"),
        ({"flags": [1]}, "flags"),
        ({"flags": {"nobody": ["opinion"]}}, "flags"),
    ],
)
def test_it_names_the_field_that_is_wrong(submit, fields, field):
    with pytest.raises(rankings.RankingError) as caught:
        submit(**fields)
    assert caught.value.field == field
    assert not Ranking.objects.exists()


@pytest.mark.parametrize(
    "rating", [{"overall": 0}, {"overall": 8}, {"overall": 2.0}, {"overall": True}, {"kind": 5}, 5]
)
def test_it_refuses_ratings_outside_the_form(submit, lease, rating):
    with pytest.raises(rankings.RankingError) as caught:
        submit(ratings={lease.presented_order[0]: rating})
    assert caught.value.field == "ratings"


@pytest.mark.parametrize("flags", [["unknown"], "opinion", [1], [["opinion"]]])
def test_it_refuses_flags_outside_the_form(submit, lease, flags):
    with pytest.raises(rankings.RankingError) as caught:
        submit(flags={lease.presented_order[0]: flags})
    assert caught.value.field == "flags"


def test_it_asks_for_the_projects_own_axes(project, submit, lease, admin):
    projects.change_project(
        project, actor=admin, ranking_form={"axes": [{"key": "kind", "label": "Kind"}], "flags": []}
    )
    first = lease.presented_order[0]
    assert submit(ratings={first: {"kind": 2}})[0].ratings == {first: {"kind": 2}}
    with pytest.raises(rankings.RankingError):
        submit(client_id="c2", flags={first: ["opinion"]})


@pytest.mark.parametrize("version", [-1, 1, True, "0", 1.0])
def test_it_refuses_a_guideline_version_that_is_none(submit, version):
    with pytest.raises(rankings.RankingError) as caught:
        submit(guideline_version=version)
    assert caught.value.field == "guideline_version"


def test_it_keeps_the_note_and_the_guideline_version_that_was_followed(project, submit, admin):
    for text in ("One.", "Two."):
        projects.set_guideline(project, text=text, created_by=admin)
    ranking, _created = submit(note="Kindness.", guideline_version=1)
    assert (ranking.note, ranking.guideline_version) == ("Kindness.", 1)
    assert submit(client_id="c2")[0].guideline_version == 2


@st.composite
def partitions(draw, size=6):
    """(tie groups over some of range(size), those left out)"""
    order = draw(st.permutations(range(size)))
    kept = draw(st.integers(0, size))
    groups, rest = [], list(order[:kept])
    while rest:
        count = draw(st.integers(1, len(rest)))
        groups.append(rest[:count])
        rest = rest[count:]
    return groups, set(order[kept:])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(partitions())
def test_it_keeps_every_valid_order_as_a_partition_of_the_cards(partition):
    groups, left_out = partition
    cards = {f"c{index}": index for index in range(6)}
    checked = rankings.check_order([[f"c{index}" for index in group] for group in groups], cards)
    assert [sorted(group) for group in checked] == [sorted(group) for group in groups]
    assert set(range(6)) - {card for group in checked for card in group} == left_out


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["c0", "c1", "c2"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["c0", "c1"]), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, JSON, JSON)
def test_it_answers_any_json_with_a_judgment_or_a_named_field(order, ratings, flags):
    cards = {"c0": 0, "c1": 1, "c2": 2}
    form = {"axes": [], "flags": [{"key": "opinion", "label": "opinion"}]}
    for check, values in (
        (rankings.check_order, (order, cards)),
        (rankings.check_ratings, (ratings, cards, form)),
        (rankings.check_flags, (flags, cards, form)),
    ):
        try:
            check(*values)
        except rankings.RankingError as error:
            assert error.field in ("ranking", "ratings", "flags")


def test_it_does_not_bring_back_by_a_change_what_was_withdrawn(submit, annotator, admin):
    ranking, _created = submit()
    withdrawals.withdraw(ranking.task.project, annotator=annotator, actor=admin)
    changed, _created = submit(client_id="c2")
    assert changed.version == 2
    assert changed.withdrawn_at is not None
