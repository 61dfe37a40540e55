"""What the commands of this app share: a project by its short name."""

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from annotation.models import Project


def find_project(slug):
    project = Project.objects.filter(slug=slug).first()
    if project is None:
        known = ", ".join(Project.objects.values_list("slug", flat=True)[:20]) or _("none yet")
        raise CommandError(_("There is no project %(slug)r. Projects: %(known)s.") % {"slug": slug, "known": known})
    return project
