from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from annotation.assignment import TaskError
from annotation.hidden import WITH_KNOWN_ANSWER
from annotation.known_answers import describe, import_file
from annotation.management.project_argument import find_project


class Command(BaseCommand):
    help = "Makes hidden checks, or practice, of rankings in the native format, whose orders are the known answers."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name")
        parser.add_argument("file", help="path of the file, JSONL")
        parser.add_argument("--name", help="name of the prompt set that is made (default: the file's name)")

        parser.add_argument("--purpose", choices=[str(purpose) for purpose in WITH_KNOWN_ANSWER], default="gold")

    def handle(self, *, project, file, name, purpose, **options):
        path = Path(file)
        try:
            with path.open("rb") as opened:
                report = import_file(
                    find_project(project), file=opened, name=name or path.stem, file_name=path.name, purpose=purpose
                )
        except OSError as error:
            message = _("Cannot read %(path)s: %(reason)s.") % {"path": path, "reason": error.strerror or error}
            raise CommandError(message) from None
        except TaskError as error:
            raise CommandError(f"{path}: {error}") from None
        self.stdout.write(describe(report, purpose))
