"""Puts right, every few seconds, what a lost message or a dead worker left behind. `up` runs it."""

import logging
import time

from django.core.management.base import BaseCommand
from django.db import close_old_connections
from django.utils.translation import gettext_lazy as _

from annotation import assignment, reports
from training import rounds, runs

logger = logging.getLogger(__name__)


class Command(BaseCommand):
    help = _("Requeues work that a lost message or a dead worker left behind, every few seconds.")

    def add_arguments(self, parser):
        parser.add_argument("--once", action="store_true", help=str(_("do it once and end")))
        parser.add_argument("--seconds", type=float, default=5.0, help=str(_("pause between two passes")))

    def handle(self, *args, once, seconds, **options):
        if once:
            reconcile()
            return
        while True:
            reconcile()
            close_old_connections()
            time.sleep(seconds)


def reconcile():
    for put_right in (runs.reconcile, rounds.reconcile, assignment.expire_leases, reports.refresh_due):
        try:
            put_right()
        except Exception:
            # A database that is away comes back, and one sick row must not hold up the rest: the loop goes on.
            logger.exception("A pass of the reconciler failed")
