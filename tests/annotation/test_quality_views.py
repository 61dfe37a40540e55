"""The reviewers' pages: who may see them, what they say, what their buttons do."""

import pytest
from django.urls import reverse
from django.utils import timezone

from annotation import (
    adjudication,
    assignment,
    judgments,
    known_answers,
    quality_page,
    quarantine,
    rankings,
    reports,
    snapshots,
    withdrawals,
)
from annotation.formats import native
from annotation.formats.selection import JudgmentFilter
from annotation.models import (
    Membership,
    Purpose,
    QualityReport,
    Ranking,
    Suspicion,
    SuspicionState,
    Task,
    Withdrawal,
)

pytestmark = pytest.mark.django_db

WORST_FIRST = {"Once A.": 4, "Once B.": 3, "Once C.": 2, "Once D.": 1}
BEST_FIRST = {"Once A.": 1, "Once B.": 2, "Once C.": 3, "Once D.": 4}


def url(name, *args):
    return reverse(f"annotation:{name}", args=["stories", *args])


def rank(lease, annotator, places, client_id="1"):
    groups = {}
    for entry in lease.task.entries.all():
        groups.setdefault(places[entry.completion.message["content"]], []).append(str(entry.completion_id))
    order = [groups[place] for place in sorted(groups)]
    return rankings.submit_ranking(lease, annotator=annotator, client_id=client_id, order=order, seconds=9)[0]


@pytest.fixture
def dispute(project, annotator, second_annotator, make_tasks):
    """A task on which two people say the opposite, with a fresh report."""
    (task,) = make_tasks(1, overlap=2)
    for person, places in ((annotator, BEST_FIRST), (second_annotator, WORST_FIRST)):
        rank(assignment.next_assignment(project, annotator=person), person, places)
    reports.refresh(project)
    return task


def test_the_table_says_each_figure_and_what_it_means(client_for, reviewer, annotator, dispute):
    shown = client_for(reviewer).get(url("quality"))
    cells = {
        row.membership.user.username: {str(cell.column.name): cell.text for cell in row.cells}
        for row in shown.context["rows"]
    }
    # The two said the opposite of each other on all six pairs, and nothing else is known of them.
    assert cells["annotator"] == {
        "As others": "0%",
        "Checks": "–",
        "As before": "–",
        "Early": cells["annotator"]["Early"],
        "Long": cells["annotator"]["Long"],
        "Seconds": "9",
        "Weight": "1",
    }
    text = shown.content.decode()
    assert 'data-label="As others">0%' in text
    assert "Of 100 pairs of answers, how many stand in the order that others gave them." in text


@pytest.fixture
def suspicion(project, annotator, make_tasks):
    make_tasks(1)
    found = quarantine.suspect(
        Membership.objects.get(user=annotator),
        reasons=[{"check": "alignment", "value": 0.02, "usual": 0.7, "tasks": 30, "partner": None}],
    )
    rank(assignment.next_assignment(project, annotator=annotator), annotator, BEST_FIRST, "held")
    return found


def test_only_reviewers_and_admins_see_them(client_for, annotator, outsider, reviewer, admin, dispute, suspicion):
    gets = ["quality", "disputes", "settle"]
    posts = [
        ("suspicion_decide", suspicion.pk),
        ("member_quarantine",),
        ("withdraw",),
        ("withdrawal_reverse", suspicion.pk),
        ("settle_task",),
        ("make_check", suspicion.pk),
    ]
    for user, status in ((annotator, 403), (outsider, 404)):
        client = client_for(user)
        assert {client.get(url(name)).status_code for name in gets} == {status}
        assert {client.post(url(*post)).status_code for post in posts} == {status}
    assert Suspicion.objects.get().state == SuspicionState.OPEN
    for user in (reviewer, admin):
        assert client_for(user).get(url("quality")).status_code == 200


def test_it_says_in_plain_words_why_somebody_is_suspected(client_for, reviewer, suspicion):
    page = client_for(reviewer).get(url("quality")).content.decode()
    assert "1 person waits for your decision." in page
    assert "Agrees with others no more than chance would, on 30 tasks." in page
    assert "1 ranking is held back until you decide." in page


@pytest.mark.parametrize("check", ["alignment", "consistency", "position", "length", "pace", "copying"])
@pytest.mark.parametrize("value", [-0.9, 0.05, 0.3, 0.9])
def test_every_reason_is_one_whole_sentence(check, value):
    reason = {"check": check, "value": value, "usual": 0.5, "tasks": 30, "partner": 7}
    words = quality_page.explain(reason, {7: "ann"})
    assert (
        words[0].isupper()
        and words.endswith(".")
        and "%"
        not in words.replace("90%", "").replace("50%", "").replace("30%", "").replace("5%", "").replace("-90%", "")
    )
    assert ("ann" in words) is (check == "copying")


def test_its_buttons_decide(client_for, project, annotator, reviewer, suspicion):
    client = client_for(reviewer)
    client.post(url("suspicion_decide", suspicion.pk), {"decision": "clear"})
    assert not Ranking.objects.get().is_held
    member = Membership.objects.get(user=annotator)
    client.post(url("member_quarantine"), {"member": member.pk, "quarantined": "on"})
    by_hand = Suspicion.objects.get(state=SuspicionState.OPEN)
    assert by_hand.note and by_hand.reasons == []
    client.post(url("suspicion_decide", by_hand.pk), {"decision": "confirm"})
    assert Ranking.objects.get().withdrawn_at
    client.post(url("member_quarantine"), {"member": member.pk})
    assert not Membership.objects.get(user=annotator).quarantined_at


def test_it_withdraws_a_day_and_brings_it_back(client_for, annotator, reviewer, dispute):
    client = client_for(reviewer)
    member = Membership.objects.get(user=annotator)
    today = timezone.localdate()
    client.post(url("withdraw"), {"annotator": member.pk, "since": "2020-01-01", "until": "2020-01-02", "reason": "x"})
    client.post(url("withdraw"), {"annotator": member.pk, "since": today, "until": "2020-01-02", "reason": "x"})
    client.post(url("withdraw"), {"annotator": member.pk, "since": today, "until": today})
    assert not Withdrawal.objects.exists()
    client.post(url("withdraw"), {"annotator": member.pk, "since": today, "until": today, "reason": "Unwell."})
    assert Ranking.objects.in_use().get().annotator != annotator
    assert "Unwell." in client.get(url("quality")).content.decode()
    client.post(url("withdrawal_reverse", Withdrawal.objects.get().pk))
    assert Ranking.objects.in_use().count() == 2


def test_a_reviewer_settles_a_dispute_and_it_alone_trains(
    client_for, project, reviewer, annotator, dispute, settings, tmp_path
):
    settings.PLUMBLINE_DATA_DIR = tmp_path
    assert [task.pk for task in adjudication.disputes(project)] == [dispute.pk]
    client = client_for(reviewer)
    page = client.get(url("settle") + f"?task={dispute.pk}")
    lease = page.context["assignment"]
    assert lease.task.purpose == Purpose.ADJUDICATION and lease.task.source == dispute
    assert page.context["page_data"]["urls"]["task"] == url("settle_task")
    # Held until it is done, and no part of anybody's ordinary work, the reviewer's own included.
    assert client.get(url("settle")).context["assignment"] == lease
    assert assignment.next_assignment(project, annotator=reviewer) is None
    ranking = rank(lease, reviewer, WORST_FIRST)
    assert client.post(url("settle_task")).status_code == 204
    assert adjudication.disputes(project) == []
    assert list(Ranking.objects.trainable()) == [ranking]
    assert snapshots.freeze(project).counts["rankings"] == 1
    # It is evidence about the two who disagreed.
    figures = reports.refresh(project).figures
    assert figures["disputes"] == []
    assert figures["annotators"][str(annotator.pk)]["known"][0] == 0
    client.post(url("make_check", ranking.pk))
    assert Task.objects.get(purpose=Purpose.GOLD).known_answer.order == ranking.order
    assert "hidden check" in client.get(url("disputes")).content.decode()


def test_nobody_settles_what_they_ranked(client_for, project, annotator, second_annotator, dispute):
    Membership.objects.filter(user=annotator).update(role="reviewer")
    answer = client_for(annotator).get(url("settle"))
    assert answer.status_code == 302
    assert not Task.objects.filter(purpose=Purpose.ADJUDICATION).exists()


def test_two_reviewers_get_two_disputes_or_none(project, reviewer, admin, dispute):
    assert adjudication.next_dispute(project, reviewer=reviewer)
    assert adjudication.next_dispute(project, reviewer=admin) is None
    assert adjudication.next_dispute(project, reviewer=admin, task=dispute) is None


def test_a_dispute_given_back_waits_again(project, reviewer, admin, dispute):
    lease = adjudication.next_dispute(project, reviewer=reviewer)
    assignment.expire_leases(now=lease.lease_expires_at)
    assert assignment.next_assignment(project, annotator=admin) is None
    assert adjudication.next_dispute(project, reviewer=admin).task == lease.task


def test_the_page_reads_what_was_kept(client_for, reviewer, dispute, django_assert_max_num_queries):
    assert QualityReport.objects.count() == 1
    client = client_for(reviewer)
    with django_assert_max_num_queries(30):
        page = client.get(url("quality"))
    assert "1 task is disputed." in page.content.decode()
    assert "People order 0% of pairs alike" in page.content.decode()


def test_what_measures_is_never_settled_and_never_trains(
    project, annotator, second_annotator, reviewer, make_prompts, make_task, settings, tmp_path
):
    settings.PLUMBLINE_DATA_DIR = tmp_path
    compared, queued = make_prompts("A blind comparison.", "Kept for evaluation.", pool="eval")
    blind = make_task(compared, purpose=Purpose.EVAL, overlap=2)
    # As earlier versions let a caller of the API ask for it.
    Task.objects.filter(pk=make_task(queued, overlap=2).pk).update(purpose=Purpose.TRAIN)
    for number in range(2):
        for person, places in ((annotator, BEST_FIRST), (second_annotator, WORST_FIRST)):
            rank(assignment.next_assignment(project, annotator=person), person, places, f"{person}{number}")
    assert reports.refresh(project).figures["disputes"] == []
    # As a report of an earlier version may name it.
    QualityReport.objects.update(figures={"disputes": [[str(blind.pk), 0.0, 2]]})
    assert adjudication.disputes(project) == []
    assert adjudication.next_dispute(project, reviewer=reviewer) is None
    # Settled before it was refused: it still does not train.
    rank(adjudication.claim(blind, reviewer), reviewer, BEST_FIRST)
    assert not Ranking.objects.trainable().exists()
    assert snapshots.freeze(project).counts["rankings"] == 0
    assert len(list(native.write_rankings(project, JudgmentFilter()))) == 5


def test_who_skips_a_dispute_is_not_asked_again_and_others_are(
    client_for, project, reviewer, admin, annotator, second_annotator, dispute, make_tasks
):
    lease = adjudication.next_dispute(project, reviewer=reviewer)
    assignment.skip(lease, annotator=reviewer, reason="No idea.")
    assert client_for(reviewer).get(url("settle")).status_code == 302
    rank(adjudication.next_dispute(project, reviewer=admin), admin, BEST_FIRST)
    withdrawals.withdraw(project, annotator=admin, actor=admin)
    reports.refresh(project)
    assert [task.pk for task in adjudication.disputes(project)] == [dispute.pk]
    assert adjudication.next_dispute(project, reviewer=admin) is None


def test_a_dispute_that_somebody_else_takes_first_is_passed_over(project, reviewer, monkeypatch, dispute):
    monkeypatch.setattr(adjudication, "disputes", lambda project: [dispute, dispute])
    claims = iter([None, "the next one"])
    monkeypatch.setattr(adjudication, "claim", lambda dispute, reviewer: next(claims))
    assert adjudication.next_dispute(project, reviewer=reviewer) == "the next one"


def test_a_report_is_out_of_date_once_a_known_answer_or_a_withdrawal_changes(project, annotator, admin, dispute):
    def fingerprint():
        return judgments.fingerprint(project, simulated=False)

    order = [[str(entry.completion_id)] for entry in dispute.entries.all()]
    check = known_answers.make_check(dispute, order=order, actor=admin)
    seen = [fingerprint()]
    known_answers.set_known_answer(check, order=order[::-1], actor=admin)
    seen.append(fingerprint())
    withdrawal = withdrawals.withdraw(project, annotator=annotator, actor=admin)
    seen.append(fingerprint())
    withdrawals.reverse(withdrawal, actor=admin)
    seen.append(fingerprint())
    assert len(set(seen)) == 4
    assert fingerprint() == seen[-1]
