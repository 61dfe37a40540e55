from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils.translation import gettext as _

from annotation import projects
from annotation.management.project_argument import find_project
from annotation.models import Role
from plumbline import accounts, tokens
from plumbline.models import User


class Command(BaseCommand):
    help = "Prints a new API token for a user, once, alone on its line."

    def add_arguments(self, parser):
        parser.add_argument("username")
        parser.add_argument("--create", action="store_true", help="make the user if there is none of that name")
        parser.add_argument("--project", metavar="SLUG", help="make the user a member of this project as well")
        parser.add_argument(
            "--role",
            choices=Role.values,
            help="the role there; else new members annotate, others keep theirs",
        )
        parser.add_argument("--only", action="store_true", help="the token works in that project and nowhere else")
        parser.add_argument("--name", default="command line", help="what the token is for, as its owner sees it")

    @transaction.atomic
    def handle(self, *, username, create, project, role, only, name, **options):
        if not 1 <= len(name) <= 100:
            raise CommandError(_("--name must have 1 to 100 characters; it has %(count)d.") % {"count": len(name)})
        if only and project is None:
            raise CommandError(_("--only needs --project, to say where the token works."))
        user = self.find_or_create_user(username, create=create)
        found = None if project is None else find_project(project)
        if found is not None:
            self.add_member(found, user, role=role)
        self.stdout.write(tokens.create_token(user, name=name, project=found if only else None))

    def find_or_create_user(self, username, *, create):
        user = User.objects.filter(username=username).first()
        if user is None and not create:
            message = _("There is no user named %(name)r. Add --create to make one.")
            raise CommandError(message % {"name": username})
        if user is None:
            try:
                return accounts.create_user(username)
            except ValidationError as error:
                message = _("%(name)r cannot be a user name: %(error)s")
                raise CommandError(message % {"name": username, "error": " ".join(error.messages)}) from error
        if not user.is_active:
            raise CommandError(_("The account of %(name)r is closed; open it first.") % {"name": username})
        return user

    def add_member(self, project, user, *, role):
        try:
            projects.add_member(project, user, role=role)
        except ValidationError as error:
            message = _("%(name)s cannot join %(project)s: %(error)s")
            names = {"name": user.get_username(), "project": project.slug, "error": " ".join(error.messages)}
            raise CommandError(message % names) from error
