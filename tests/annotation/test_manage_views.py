import re

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse

from annotation import assignment, projects, rankings
from annotation.models import Guideline, Invitation, Membership, PromptSet
from annotation.ranking_form import form_of
from plumbline.models import User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db

ADMIN_PAGES = ["prompts", "members", "settings"]


def url(name, **arguments):
    return reverse(f"annotation:{name}", kwargs={"slug": "stories", **arguments})


@pytest.mark.parametrize("name", [*ADMIN_PAGES, "guidelines"])
def test_it_does_not_exist_for_the_outsider(client_for, outsider, project, client, name):
    assert client_for(outsider).get(url(name)).status_code == 404
    assert client_for(outsider).post(url(name)).status_code == 404
    assert client.get(url(name)).status_code == 302


@pytest.mark.parametrize("name", ADMIN_PAGES)
def test_it_is_for_admins_alone(client_for, annotator, reviewer, admin, name):
    assert client_for(annotator).get(url(name)).status_code == 403
    assert client_for(reviewer).get(url(name)).status_code == 403
    assert client_for(admin).get(url(name)).status_code == 200


@pytest.mark.parametrize("name", ["prompt_set_active", "member_change", "invitation_revoke"])
def test_it_changes_nothing_for_the_outsider(client_for, outsider, annotator, project, name):
    some_id = "00000000-0000-4000-8000-000000000000"
    arguments = {"prompt_set_active": {"prompt_set_id": some_id}, "invitation_revoke": {"invitation_id": some_id}}
    path = url(name, **arguments.get(name, {}))
    assert client_for(outsider).post(path).status_code == 404
    assert client_for(annotator).post(path).status_code == 403


def test_it_imports_a_file_from_the_page(client_for, admin, project):
    client = client_for(admin)
    file = SimpleUploadedFile("kind.jsonl", b'{"prompt": "One."}\n{"prompt": "One."}')
    answer = client.post(url("prompts"), {"file": file, "pool": "reward"}, follow=True)
    assert "Imported 1 prompts as kind v1. 1 stood in the file twice" in answer.content.decode()
    prompt_set = PromptSet.objects.get()
    client.post(url("prompt_set_active", prompt_set_id=prompt_set.pk), {"active": "0"})
    assert not PromptSet.objects.get().active


def test_it_says_what_is_wrong_with_a_file(client_for, admin, project):
    answer = client_for(admin).post(url("prompts"), {"file": SimpleUploadedFile("bad.jsonl", b'{"prompt": ""}')})
    assert answer.status_code == 400
    assert "row 1, prompt: is empty." in answer.content.decode()
    # Its name says what a broken first line does not.
    answer = client_for(admin).post(url("prompts"), {"file": SimpleUploadedFile("bad.jsonl", b'"prompt": "One."}\n')})
    assert "row 1: is not valid JSON" in answer.content.decode()


def test_it_lets_somebody_join_by_a_link_once(client_for, client, admin, project):
    page = client_for(admin).post(url("members"), {"role": "reviewer", "note": "Ada"})
    link = re.search(r"http://testserver(/invitations/[^<]+)<", page.content.decode()).group(1)
    assert "Join Stories" in client.get(link).content.decode()
    weak = client.post(link, {"username": "ada", "password": "12345"})
    assert weak.status_code == 400
    spaced = client.post(link, {"username": "ada l", "password": PASSWORD})
    assert "Use letters, digits and @ . + - _ only, without spaces." in spaced.content.decode()
    assert Invitation.objects.get().accepted_at is None
    client.post(link, {"username": "ada", "password": PASSWORD})
    assert Membership.objects.get(user__username="ada").role == "reviewer"
    assert client.get("/account/tokens/").status_code == 200
    assert client.get(link).status_code == 410
    assert client.post(link, {"username": "eve", "password": PASSWORD}).status_code == 410
    assert not User.objects.filter(username="eve").exists()


def test_it_lets_a_known_person_join(client_for, outsider, admin, project):
    _invitation, token = projects.create_invitation(project, created_by=admin)
    client_for(outsider).post(reverse("annotation:invitation", args=[token]))
    assert Membership.objects.get(user=outsider).role == "annotator"


def test_it_does_not_take_a_name_that_is_taken(client, annotator, admin, project):
    _invitation, token = projects.create_invitation(project, created_by=admin)
    answer = client.post(
        reverse("annotation:invitation", args=[token]), {"username": "annotator", "password": PASSWORD}
    )
    assert answer.status_code == 400
    assert Invitation.objects.get().accepted_at is None


def test_it_withdraws_an_invitation(client_for, client, admin, project):
    invitation, token = projects.create_invitation(project, created_by=admin)
    client_for(admin).post(url("invitation_revoke", invitation_id=invitation.pk))
    assert client.get(reverse("annotation:invitation", args=[token])).status_code == 410


def test_it_changes_a_member_from_the_page(client_for, admin, annotator, project):
    member = Membership.objects.get(user=annotator)
    client = client_for(admin)
    client.post(url("member_change"), {"member": member.pk, "role": "reviewer"})
    assert Membership.objects.get(pk=member.pk).role == "reviewer"
    page = client.post(url("member_change"), {"member": member.pk, "active": "false"}, follow=True)
    assert not Membership.objects.get(pk=member.pk).active
    assert "no longer works here; their rankings stay." in page.content.decode()
    assert client_for(annotator).get(url("guidelines")).status_code == 404


def test_it_saves_settings_and_questions(client_for, admin, project):
    client = client_for(admin)
    body = {
        "name": "Stories",
        "completions_per_task": 3,
        "overlap": 2,
        "lease_seconds": 600,
        "daily_goal": 10,
        "gold_share": 0.2,
        "repeat_share": 0,
        "overall": "on",
        "axes": "Helpful\nKind to children\nKind, to children!\nHelpful",
        "flags": "makes things up\n\n Is spam ",
        "strength": "on",
        "note": "What should a good story contain?",
        "objective": "worst",
        "warning": "Cruel stories.",
        "write_answers": "on",
    }
    assert client.post(url("settings"), body).status_code == 302
    project.refresh_from_db()
    assert (project.overlap, project.completions_per_task) == (2, 3)
    assert (project.gold_share, project.repeat_share, project.weigh_annotators) == (0.2, 0, False)
    form = form_of(project)
    assert form["axes"] == [
        {"key": "helpful", "label": "Helpful"},
        {"key": "kind_to_children", "label": "Kind to children"},
        {"key": "kind_to_children_2", "label": "Kind, to children!"},
    ]
    # A label that was there keeps the key that rankings carry.
    assert form["flags"] == [
        {"key": "hallucination", "label": "makes things up"},
        {"key": "is_spam", "label": "Is spam"},
    ]
    assert (form["overall"], form["strength"], form["write_answers"]) == (True, True, True)
    assert (form["rationale"], form["rewrite"], form["write_prompts"]) == (False, False, False)
    assert (form["note"], form["warning"]) == ("What should a good story contain?", "Cruel stories.")
    # Who looks for harm is always asked first.
    assert (form["objective"], form["sensitive"]) == ("worst", True)
    refused = client.post(url("settings"), body | {"completions_per_task": 10})
    assert refused.status_code == 400
    assert "less than or equal to 9" in refused.content.decode()
    refused = client.post(url("settings"), body | {"axes": "Overall"})
    assert "axes must have keys that differ" in refused.content.decode()
    refused = client.post(url("settings"), body | {"flags": "\n".join(f"flag {n}" for n in range(31))})
    assert "At most 30 lines" in refused.content.decode()
    project.refresh_from_db()
    assert project.ranking_form["axes"][0]["key"] == "helpful"


def test_it_shows_guidelines_to_all_and_lets_admins_change_them(client_for, admin, annotator, project):
    client_for(admin).post(url("guidelines"), {"text": "Prefer *kind* endings.\n\n<script>alert(1)</script>"})
    page = client_for(annotator).get(url("guidelines")).content.decode()
    assert "<em>kind</em>" in page
    assert "<script>alert" not in page
    assert client_for(annotator).post(url("guidelines"), {"text": "Mine."}).status_code == 403
    client_for(admin).post(url("guidelines"), {"text": "Prefer *kind* endings.\r\n\r\n<script>alert(1)</script>"})
    assert Guideline.objects.count() == 1


def test_it_shows_the_rows_in_the_admin_and_changes_none(client_for, make_user, task):
    client = client_for(make_user("root", is_staff=True, is_superuser=True))
    for name in ("project", "membership", "prompt", "completion", "task", "slot", "assignment", "ranking", "snapshot"):
        assert client.get(reverse(f"admin:annotation_{name}_changelist")).status_code == 200
        assert client.get(reverse(f"admin:annotation_{name}_add")).status_code == 403


def test_it_offers_peoples_judgments_alone_where_some_are_simulated(client_for, admin, annotator, project, task):
    assert "simulated=exclude" not in client_for(admin).get(url("settings")).content.decode()
    Membership.objects.filter(user=annotator).update(simulated=True)
    lease = assignment.next_assignment(project, annotator=annotator)
    order = [[key] for key in lease.presented_order]
    rankings.submit_ranking(lease, annotator=annotator, client_id="c", order=order)
    assert "/export/trl/?simulated=exclude" in client_for(admin).get(url("settings")).content.decode()
