from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from annotation.management.project_argument import find_project
from annotation.snapshots import SnapshotError, freeze, snapshot_path


class Command(BaseCommand):
    help = "Freezes a project's rankings, demonstrations and prompts in a directory of JSONL with a manifest."

    def add_arguments(self, parser):
        parser.add_argument("project", help="the project's short name")
        parser.add_argument("--people-only", action="store_true", help="leave simulated judgments out")

    def handle(self, *, project, people_only, **options):
        try:
            snapshot = freeze(find_project(project), include_simulated=not people_only)
        except SnapshotError as error:
            raise CommandError(str(error)) from None
        message = _("Snapshot %(number)d with %(rankings)d rankings in %(path)s")
        values = {
            "number": snapshot.number,
            "rankings": snapshot.counts["rankings"],
            "path": snapshot_path(snapshot),
        }
        self.stdout.write(message % values)
