from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from plumbline.demo import project as demo


class Command(BaseCommand):
    help = "Loads the demo project: prompts, a small model to teach, and its first answers. Doing it twice is safe."

    def add_arguments(self, parser):
        parser.add_argument(
            "--tasks", type=int, help="have at least this many rankings waiting; the model writes what lacks"
        )

    def handle(self, *, tasks=None, **options):
        if tasks is not None and tasks < 1:
            raise CommandError(_("--tasks %(n)d is too few; ask for at least 1.") % {"n": tasks})
        try:
            project = demo.load(tasks=tasks, say=self.stdout.write)
        except demo.DemoError as error:
            raise CommandError(str(error)) from error
        waiting = demo.waiting(project)
        self.stdout.write(
            ngettext(
                "The demo project %(name)s is loaded; %(n)d task is waiting to be ranked.",
                "The demo project %(name)s is loaded; %(n)d tasks are waiting to be ranked.",
                waiting,
            )
            % {"name": project.name, "n": waiting}
        )
