from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from annotation.assignment import TaskError
from annotation.known_answers import import_checks
from annotation.management.project_argument import find_project


class Command(BaseCommand):
    help = "Makes hidden checks of rankings in the native format, whose orders are the known answers."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name")
        parser.add_argument("file", help="path of the file, JSONL")
        parser.add_argument("--name", help="name of the prompt set that is made (default: the file's name)")

    def handle(self, *, project, file, name, **options):
        path = Path(file)
        try:
            with path.open("rb") as opened:
                made = import_checks(find_project(project), file=opened, name=name or path.stem)
        except OSError as error:
            message = _("Cannot read %(path)s: %(reason)s.") % {"path": path, "reason": error.strerror or error}
            raise CommandError(message) from None
        except TaskError as error:
            raise CommandError(f"{path}: {error}") from None
        self.stdout.write(_("%(n)d hidden checks are made.") % {"n": made})
