"""How large a request may be, settled before anything reads its body."""

import math

from django.conf import settings
from django.utils.translation import gettext as _

from plumbline.views import error_page

MOST_DIGITS = 15  # of a length; Python refuses to read a number of thousands


def limit_bodies(get_response):
    """Middleware. Django itself limits forms but no files: a stranger's upload would fill the disk before its refusal.

    Files come from people who are signed in; the API looks at its token before it reads.
    """

    def middleware(request):
        length, most = request.META.get("CONTENT_LENGTH") or "0", settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        size = int(length) if length.isdecimal() and len(length) <= MOST_DIGITS else math.inf
        if size > most and (request.path.startswith("/api/") or request.user.is_authenticated):
            most = settings.LARGEST_UPLOAD_BYTES
        if size <= most:
            return get_response(request)
        message = _("What was sent is larger than %(limit)d MB. Split it into several files.")
        return error_page(request, 413, _("Too large"), message % {"limit": most // 2**20}, code="too_large")

    return middleware
