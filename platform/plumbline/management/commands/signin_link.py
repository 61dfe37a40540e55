from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse
from django.utils.translation import gettext as _

from plumbline import tokens, up
from plumbline.models import User


class Command(BaseCommand):
    help = "Prints a link that signs a user in once, within a day. Earlier unused links of theirs stop working."

    def add_arguments(self, parser):
        parser.add_argument("username")

    def handle(self, *, username, **options):
        user = User.objects.filter(username=username, is_active=True).first()
        if user is None:
            raise CommandError(_("There is no active user named %(name)r.") % {"name": username})
        running = up.read_status()
        address = settings.PLUMBLINE_BASE_URL or (running["address"] if running else "http://127.0.0.1:8000")
        self.stdout.write(address + reverse("sign_in_with_link", args=[tokens.create_sign_in_link(user)]))
