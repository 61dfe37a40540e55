from pathlib import Path

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from annotation.management.project_argument import find_project
from annotation.models import POOLS
from annotation.prompts import FORMATS, PromptError, import_prompts


class Command(BaseCommand):
    help = "Imports a file of prompts, JSONL or CSV, into a project: all of it or nothing."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name")
        parser.add_argument("file", help="path of the file")
        parser.add_argument("--name", help="name of the prompt set (default: the file's name)")
        parser.add_argument("--format", choices=FORMATS, default="auto")
        parser.add_argument("--pool", choices=POOLS, help="for rows that name none")

    def handle(self, *, project, file, name, format, pool, **options):
        project = find_project(project)
        path = Path(file)
        try:
            with path.open("rb") as opened:
                report = import_prompts(
                    project, name=name or path.stem, file=opened, file_name=path.name, format=format, pool=pool
                )
        except OSError as error:
            message = _("Cannot read %(path)s: %(reason)s.") % {"path": path, "reason": error.strerror or error}
            raise CommandError(message) from None
        except PromptError as error:
            raise CommandError(f"{path}: {error}") from None
        if report.already_imported:
            self.stdout.write(_("This very file is already there as %(set)s.") % {"set": report.prompt_set})
            return
        counts = report.prompt_set.counts
        pools = ", ".join(f"{pool} {count}" for pool, count in sorted(counts["pools"].items()))
        self.stdout.write(
            _("Imported %(prompts)d prompts as %(set)s (%(pools)s); %(duplicates)d duplicates left out.")
            % {
                "prompts": report.prompts,
                "set": report.prompt_set,
                "pools": pools,
                "duplicates": report.dropped.get("duplicate", 0),
            }
        )
