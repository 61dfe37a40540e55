"""Django's admin, for looking only: every write goes through the noun modules."""

from django.contrib import admin

from plumbline.models import ApiToken, SignInLink, User


class ReadOnlyAdmin(admin.ModelAdmin):
    """Shows rows; adds, changes and deletes none. The other apps' admins build on it."""

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_delete_permission(self, request, obj=None):
        return False


@admin.register(User)
class UserAdmin(ReadOnlyAdmin):
    list_display = ["username", "email", "is_active", "is_superuser", "last_login"]
    search_fields = ["username", "email"]
    exclude = ["password"]


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    list_display = ["name", "user", "created_at", "last_used_at", "revoked_at"]
    exclude = ["digest"]


@admin.register(SignInLink)
class SignInLinkAdmin(ReadOnlyAdmin):
    list_display = ["user", "created_at", "expires_at", "used_at"]
    exclude = ["digest"]
