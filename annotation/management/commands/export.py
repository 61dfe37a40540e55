from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from annotation.formats import EXPORTS
from annotation.formats.selection import JudgmentFilter
from annotation.management.project_argument import find_project
from annotation.models import Purpose


class Command(BaseCommand):
    help = "Writes a project's judgments in one of the formats of docs/formats.md."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name")
        parser.add_argument("format", choices=list(EXPORTS))
        parser.add_argument("--output", help="path of a new file (default: standard output)")
        parser.add_argument("--purpose", action="append", choices=Purpose.values, help="may be given several times")
        parser.add_argument("--simulated", choices=("include", "exclude", "only"), default="include")

    def handle(self, *, project, format, output, purpose, simulated, **options):
        write, _ending, _content_type = EXPORTS[format]
        selection = JudgmentFilter(purposes=tuple(purpose) if purpose else None, simulated=simulated)
        lines = write(find_project(project), selection)
        if output is None:
            for line in lines:
                self.stdout.write(line, ending="")
            return
        try:
            # "x": an export never overwrites what somebody keeps.
            with Path(output).open("x", encoding="utf-8", newline="") as file:
                file.writelines(lines)
        except OSError as error:
            message = _("Cannot write %(path)s: %(reason)s.")
            raise CommandError(message % {"path": output, "reason": error.strerror or error}) from None
