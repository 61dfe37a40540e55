"""A page that is left open while somebody else signs in: what it sends is the first person's, never the second's."""

from django.utils.translation import gettext as _

from plumbline.views import error_page

HEADER = "X-Plumbline-Person"  # the id of the account for which the page was made


def refuse_another_person(get_response):
    """Middleware. 401 for a call of a page that was made for another account: to that account, one is signed out."""

    def middleware(request):
        person = request.headers.get(HEADER)
        if person is None or person == str(request.user.pk):
            return get_response(request)
        message = _("Somebody else is signed in now. Sign in again as the person for whom this page was opened.")
        return error_page(request, 401, _("Signed out"), message, code="not_authenticated")

    return middleware
