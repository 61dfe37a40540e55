"""A project that is over: nothing is asked and nothing is lost."""

import pytest
from django.urls import reverse

from annotation import assignment, demonstrations, projects
from annotation.models import AuditEvent, Project
from training import rounds

pytestmark = pytest.mark.django_db

URL = reverse("annotation:archive", args=["stories"])


@pytest.fixture
def archived(project, admin):
    projects.set_archived(project, archived=True, actor=admin)
    project.refresh_from_db()
    return project


def test_only_an_admin_archives_it_and_takes_it_up_again(client_for, annotator, reviewer, outsider, admin, project):
    for user, status in ((annotator, 403), (reviewer, 403), (outsider, 404)):
        assert client_for(user).post(URL, {"archived": "1"}).status_code == status
    client = client_for(admin)
    for archived in ("1", "1", "0", "0"):
        assert client.post(URL, {"archived": archived}).status_code == 302
        assert bool(Project.objects.get().archived_at) == (archived == "1")
    assert list(AuditEvent.objects.order_by("pk").values_list("action", flat=True)) == [
        "project.archived",
        "project.reopened",
    ]


def test_it_asks_nobody_anything(client_for, annotator, admin, make_tasks, make_prompts, project):
    make_tasks(2)
    make_prompts("Write this.", pool="sft", name="to write")
    held = assignment.next_assignment(project, annotator=annotator)
    projects.set_archived(project, archived=True, actor=admin)
    project.refresh_from_db()
    assert assignment.next_assignment(project, annotator=annotator) == held  # may still be handed in
    assert assignment.next_assignment(project, annotator=annotator, ahead=True) is None
    assert assignment.next_assignment(project, annotator=admin) is None
    assert demonstrations.next_prompt(project, author=annotator) is None
    page = client_for(admin).get(reverse("annotation:rank", args=["stories"])).content.decode()
    assert "This project is over" in page and "Nothing waits" not in page
    projects.set_archived(project, archived=False, actor=admin)
    project.refresh_from_db()
    assert assignment.next_assignment(project, annotator=admin) is not None


def test_it_starts_no_round(archived):
    with pytest.raises(rounds.RoundError, match="archived"):
        rounds.start_round(archived)


def test_it_leaves_the_list_and_can_still_be_read(client_for, annotator, admin, archived):
    for user, address in ((annotator, "annotation:work"), (admin, "training:dashboard")):
        home = client_for(user).get("/")
        assert home.status_code == 200 and home.context["memberships"] == []
        path = reverse(address, args=["stories"])
        assert f'href="{path}"' in home.content.decode()
        assert "This project is archived" in client_for(user).get(path).content.decode()
