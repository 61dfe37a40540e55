"""Who may see and do what in a project. To an outsider a project does not exist."""

from django.core.exceptions import PermissionDenied
from django.http import Http404
from django.utils.translation import gettext as _

from annotation.models import Membership, Project, Role
from annotation.projects import RANKS, membership
from annotation.ranking_form import form_of


def has_role(member, role):
    """Whether this membership may do what `role` may."""
    return RANKS[member.role] >= RANKS[role]


def project_for(user, slug, role=Role.ANNOTATOR):
    """(Project, this person's Membership) by one query. Raises Http404 for outsiders, PermissionDenied for others.

    With an API token for one project, its user is an outsider to every other.
    """
    found = (
        Membership.objects.select_related("project").filter(project__slug=slug, user=user.pk, active=True).first()
        if user.is_authenticated
        else None
    )
    if found is None and user.is_superuser:
        project = Project.objects.filter(slug=slug).first()
        found = membership(project, user) if project else None
    if found is None or not acts_in(user, found.project_id):
        raise Http404
    if not has_role(found, role):
        raise PermissionDenied(_("This is for %(role)s members of the project.") % {"role": Role(role).label})
    return found.project, found


def acts_in(user, project_id):
    return user.acts_in_project_id in (None, project_id)


def lacks_consent(project, member):
    """Whether this person has not yet agreed to see the project's texts, which may be disturbing."""
    return form_of(project)["sensitive"] and member.consented_at is None and not member.simulated


def projects_of(user):
    """The projects that exist for this person."""
    if user.is_superuser:
        found = Project.objects.all()
    else:
        found = Project.objects.filter(memberships__user=user, memberships__active=True)
    return found if user.acts_in_project_id is None else found.filter(pk=user.acts_in_project_id)
