import sys

from django.core.management.base import BaseCommand
from django.utils.translation import gettext as _

from plumbline import doctor


class Command(BaseCommand):
    help = "Says what is wrong and what to do. Ends with status 1 where something is."
    requires_system_checks = []

    def handle(self, **options):
        troubles = 0
        for finding in doctor.examine():
            mark = self.style.SUCCESS("ok  ") if finding.ok else self.style.ERROR("FAIL")
            self.stdout.write(f"{mark} {finding.part}: {finding.text}")
            if not finding.ok:
                troubles += 1
                self.stdout.write(f"     {finding.advice}")
            self.stdout.flush()
        if troubles:
            self.stdout.write(_("Parts that need a hand: %(count)d.") % {"count": troubles})
            sys.exit(1)
        self.stdout.write(_("All is well."))
