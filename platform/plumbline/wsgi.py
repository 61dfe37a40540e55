import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "plumbline.settings")
application = get_wsgi_application()

# Every view now, while the server starts, and not within the first request that a process answers.
import plumbline.urls  # noqa: E402, F401
