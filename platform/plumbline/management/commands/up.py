import sys
import time

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import Error as DatabaseError
from django.db import connections
from django.urls import reverse
from django.utils.translation import gettext as _

from plumbline import accounts, tokens, up

# Other packages bring these, and none of our pages shows them: the admin only looks, and the API has no pages.
UNUSED_STATIC = ["rest_framework", "select2", "xregexp"]

OWN_NAMES = {"localhost", "127.0.0.1", "[::1]", "::1"}


def advice_on_names(host):
    """What to set where `up` listens for other machines and no name is known by which they reach this one; or None."""
    if host in OWN_NAMES or set(settings.ALLOWED_HOSTS) - OWN_NAMES:
        return None
    return _(
        "Other machines are refused as yet: set PLUMBLINE_BASE_URL or ALLOWED_HOSTS to the name by which they reach "
        "this one."
    )


class Command(BaseCommand):
    help = "Runs everything on one machine: Redis, the database, the web server, the workers. Ctrl-C ends all of it."
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
        parser.add_argument("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
        parser.add_argument("--demo", action="store_true", help="load the demo project, unless it is there already")

    def handle(self, *, host, port, demo, **options):
        self.started_at = time.monotonic()
        self.advice = advice_on_names(host)
        up.run_everything(host=host, port=port, prepare=lambda address: self.prepare(address, demo=demo), say=self.say)

    def say(self, text):
        self.stdout.write(text)
        self.stdout.flush()

    def prepare(self, address, *, demo):
        """Readies the database and static files; returns what to do once the web server answers."""
        try:
            call_command("migrate", interactive=False, verbosity=0)
        except DatabaseError as error:
            raise CommandError(
                _(
                    "The database %(place)s cannot be used: %(error)s. If another version of Plumbline made it, name "
                    "another one; else check DATABASE_URL and its server."
                )
                % {"place": settings.DATABASES["default"]["NAME"], "error": str(error).strip().rstrip(".")}
            ) from error
        if not settings.DEVELOPMENT:
            call_command("collectstatic", interactive=False, verbosity=0, ignore_patterns=UNUSED_STATIC)
        admin = accounts.ensure_admin()
        if demo:
            call_command("demo")
        link = reverse("sign_in_with_link", args=[tokens.create_sign_in_link(admin)])
        connections.close_all()
        return lambda: self.greet(address, link)

    def greet(self, address, link):
        public = settings.PLUMBLINE_BASE_URL or address
        seconds = time.monotonic() - self.started_at
        self.say(
            _("Plumbline is ready at %(address)s/ (after %(seconds).1f s)") % {"address": public, "seconds": seconds}
        )
        self.say(_("Sign in as admin, once, within a day: %(link)s") % {"link": public + link})
        self.say(_("Data and logs: %(folder)s") % {"folder": settings.PLUMBLINE_DATA_DIR})
        if self.advice:
            self.say(self.advice)
        if sys.stdout.isatty():
            self.say(_("Ctrl-C stops it."))
