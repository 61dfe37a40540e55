from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class PlumblineConfig(AppConfig):
    name = "plumbline"
    verbose_name = _("Accounts")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        import plumbline.openapi  # noqa: F401
