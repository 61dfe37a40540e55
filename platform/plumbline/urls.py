from allauth.account import views as allauth_views
from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from plumbline import views

handler400 = "plumbline.views.bad_request"
handler403 = "plumbline.views.permission_denied"
handler404 = "plumbline.views.page_not_found"
handler500 = "plumbline.views.server_error"

# allauth's own list also has sign-up, e-mail confirmation and reset by e-mail; none of them is open here.
account_urls = [
    path("login/", allauth_views.login, name="account_login"),
    path("logout/", allauth_views.logout, name="account_logout"),
    path("reauthenticate/", allauth_views.reauthenticate, name="account_reauthenticate"),
    path("password/change/", allauth_views.password_change, name="account_change_password"),
    path("password/set/", allauth_views.password_set, name="account_set_password"),
    path("inactive/", allauth_views.account_inactive, name="account_inactive"),
    path("sign-in/<str:secret>/", views.sign_in_with_link, name="sign_in_with_link"),
    path("tokens/", views.api_tokens, name="api_tokens"),
    path("tokens/<int:token_id>/revoke/", views.revoke_api_token, name="revoke_api_token"),
]

api_urls = [
    path("schema/", SpectacularAPIView.as_view(), name="api_schema"),
    path("", include("annotation.api_urls")),
    path("", include("training.api_urls")),
]

urlpatterns = [
    path("", views.home, name="home"),
    path("healthy/", views.healthy, name="healthy"),
    path("account/", include(account_urls)),
    path("admin/", admin.site.urls),
    path("api/v1/", include(api_urls)),
    path("", include("annotation.urls")),
    path("", include("training.urls")),
]
