from datetime import timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404
from django.utils import timezone

from annotation import permissions, projects, starting_points
from annotation.forms import SettingsForm
from annotation.models import BOUNDS, AuditEvent, Invitation, Membership
from annotation.ranking_form import form_of
from annotation.serializers import ProjectChange

pytestmark = pytest.mark.django_db


def test_it_makes_its_maker_admin(outsider):
    project = projects.create_project(name="My Stories", created_by=outsider, overlap=2)
    assert (project.slug, project.overlap) == ("my-stories", 2)
    member = projects.membership(project, outsider)
    assert member.role == "admin"
    assert member.pseudonym.startswith("person-")
    assert outsider.username not in member.pseudonym


def test_it_finds_a_free_short_name(outsider):
    slugs = [projects.create_project(name=name, created_by=outsider).slug for name in ("A b", "A b", "New", "日本")]
    assert slugs == ["a-b", "a-b-2", "new-2", "project"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"slug": "new"}, "slug"),
        ({"slug": "Ä ö"}, "slug"),
        ({"overlap": 0}, "overlap"),
        ({"completions_per_task": 10}, "completions_per_task"),
        ({"lease_seconds": 2**63}, "lease_seconds"),
        ({"daily_goal": "many"}, "daily_goal"),
        ({"is_staff": True}, "is_staff"),
        ({"ranking_form": []}, "ranking_form"),
        ({"ranking_form": {"overall": 1}}, "ranking_form"),
        ({"ranking_form": {"objective": "funniest"}}, "ranking_form"),
        ({"ranking_form": {"note": ["Why?"]}}, "ranking_form"),
        ({"ranking_form": {"warning": "x" * 3000}}, "ranking_form"),
        ({"ranking_form": {"axes": [{"key": "overall", "label": "x"}]}}, "ranking_form"),
        ({"ranking_form": {"flags": [{"key": "a", "label": "x"}, {"key": "a", "label": "y"}]}}, "ranking_form"),
        ({"ranking_form": {"color": True}}, "ranking_form"),
    ],
)
def test_it_refuses_settings_that_make_no_sense(outsider, settings, field):
    with pytest.raises(ValidationError) as caught:
        projects.create_project(**({"name": "Fine"} | settings), created_by=outsider)
    assert field in caught.value.message_dict
    assert not Membership.objects.exists()


@pytest.mark.parametrize("name", BOUNDS)
def test_a_number_has_the_same_bounds_everywhere(project, admin, name):
    low, high = BOUNDS[name]
    for value in (low, high):
        assert getattr(projects.change_project(project, actor=admin, **{name: value}), name) == value
        assert SettingsForm(None, project=project).fields[name].clean(str(value)) == value
        assert ProjectChange(data={name: value}).is_valid()
    for value in (low - 1, high + 1):
        with pytest.raises(ValidationError, match=f"from {low} to {high}"):
            projects.change_project(project, actor=admin, **{name: value})
        with pytest.raises(ValidationError):
            SettingsForm(None, project=project).fields[name].clean(str(value))
        assert not ProjectChange(data={name: value}).is_valid()


def test_it_records_what_changed(project, admin):
    projects.change_project(project, actor=admin, overlap=3, daily_goal=60)
    event = AuditEvent.objects.get()
    assert (event.action, event.actor, event.detail) == ("project.changed", admin, {"overlap": 3})


def test_it_adds_a_member_once(project, outsider):
    first = projects.add_member(project, outsider)
    again = projects.add_member(project, outsider, role="reviewer")
    assert (again.pk, again.role, again.pseudonym) == (first.pk, "reviewer", first.pseudonym)
    with pytest.raises(ValidationError):
        projects.add_member(project, outsider, simulated=True)
    with pytest.raises(ValidationError):
        projects.add_member(project, outsider, role="owner")


def test_it_never_leaves_a_project_without_an_admin(project, admin, annotator):
    own = Membership.objects.get(user=admin)
    for change in ({"role": "annotator"}, {"active": False}):
        with pytest.raises(ValidationError, match="only admin"):
            projects.change_member(own, actor=admin, **change)
    projects.add_member(project, annotator, role="admin")
    assert projects.change_member(own, actor=admin, active=False).active is False


def test_adding_a_member_again_takes_no_rights_away(project, admin, annotator):
    assert projects.add_member(project, admin).role == "admin"
    with pytest.raises(ValidationError, match="only admin"):
        projects.add_member(project, admin, role="annotator")
    projects.add_member(project, annotator, role="admin")
    assert projects.add_member(project, admin, role="annotator").role == "annotator"


def test_a_removed_admin_comes_back_as_an_annotator(project, admin, annotator):
    own = Membership.objects.get(user=annotator)
    projects.change_member(own, actor=admin, role="admin", active=False)
    assert projects.add_member(project, annotator).role == "annotator"


def test_it_takes_a_removed_member_for_an_outsider(project, annotator, admin):
    projects.change_member(Membership.objects.get(user=annotator), actor=admin, active=False)
    assert projects.membership(project, annotator) is None
    with pytest.raises(Http404):
        permissions.project_for(annotator, "stories")
    projects.add_member(project, annotator)
    assert permissions.project_for(annotator, "stories")[1].active


def test_it_tells_roles_apart(project, annotator, reviewer, admin, outsider):
    for user, allowed in ((annotator, 1), (reviewer, 2), (admin, 3)):
        for rank, role in enumerate(("annotator", "reviewer", "admin"), start=1):
            if rank <= allowed:
                assert permissions.project_for(user, "stories", role)[0] == project
            else:
                with pytest.raises(PermissionDenied):
                    permissions.project_for(user, "stories", role)
    for user in (outsider, AnonymousUser()):
        with pytest.raises(Http404):
            permissions.project_for(user, "stories")
        assert projects.membership(project, user) is None


def test_it_lets_a_superuser_in_everywhere(project, make_user):
    root = make_user("root", is_superuser=True)
    assert permissions.project_for(root, "stories", "admin")[0] == project
    assert list(permissions.projects_of(root)) == [project]
    with pytest.raises(Http404):
        permissions.project_for(root, "nowhere")


def test_it_stores_only_the_digest_of_an_invitation(project, admin):
    invitation, token = projects.create_invitation(project, created_by=admin, note="Ada")
    assert token not in str(Invitation.objects.values().get())
    assert projects.find_invitation(token) == invitation


def test_it_accepts_an_invitation_once(project, admin, outsider, make_user):
    _invitation, token = projects.create_invitation(project, role="reviewer", created_by=admin)
    assert projects.accept_invitation(token, user=outsider).role == "reviewer"
    with pytest.raises(ValidationError, match="has been used or has expired"):
        projects.accept_invitation(token, user=make_user("late"))


def test_it_keeps_a_higher_role_that_somebody_has(project, admin):
    _invitation, token = projects.create_invitation(project, created_by=admin)
    assert projects.accept_invitation(token, user=admin).role == "admin"


def test_it_refuses_an_invitation_that_is_too_old(project, admin, outsider):
    _invitation, token = projects.create_invitation(project, created_by=admin)
    Invitation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(ValidationError):
        projects.accept_invitation(token, user=outsider)
    with pytest.raises(ValidationError):
        projects.accept_invitation("\ud800", user=outsider)


def test_it_makes_a_changed_guideline_a_new_version(project, admin):
    first = projects.set_guideline(project, text="Be kind.", created_by=admin)
    assert projects.set_guideline(project, text=" Be kind.\r\n", created_by=admin) == first
    assert projects.set_guideline(project, text="Be kinder.", created_by=admin).version == 2
    assert projects.current_guideline(project).text == "Be kinder."
    for text in ("", "a\x00b", "x" * 200_001):
        with pytest.raises(ValidationError):
            projects.set_guideline(project, text=text, created_by=admin)


@pytest.mark.parametrize("point", starting_points.ALL, ids=[point.key for point in starting_points.ALL])
def test_every_starting_point_makes_a_whole_project(admin, point):
    project = projects.begin_project(point, name="New", created_by=admin)
    assert bool(projects.guideline_version(project)) == bool(point.guideline)
    form = form_of(project)
    assert all(choice["label"] for choice in form["axes"] + form["flags"])
    # Strength is asked of pairs only, and harm only after consent.
    assert not form["strength"] or project.completions_per_task == 2
    assert form["sensitive"] == (form["objective"] == "worst")
