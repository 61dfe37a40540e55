from django.urls import path

from annotation import manage_views, views

app_name = "annotation"

urlpatterns = [
    path("projects/<slug:slug>/rank/", views.rank, name="rank"),
    path("projects/<slug:slug>/rank/task/", views.rank_task, name="rank_task"),
    path("projects/<slug:slug>/rank/<uuid:assignment_id>/", views.edit_ranking, name="edit_ranking"),
    path("projects/<slug:slug>/work/", views.work, name="work"),
    path("projects/<slug:slug>/prompts/", manage_views.prompts, name="prompts"),
    path(
        "projects/<slug:slug>/prompts/<uuid:prompt_set_id>/active/",
        manage_views.prompt_set_active,
        name="prompt_set_active",
    ),
    path("projects/<slug:slug>/members/", manage_views.members, name="members"),
    path("projects/<slug:slug>/members/change/", manage_views.member_change, name="member_change"),
    path(
        "projects/<slug:slug>/members/invitations/<uuid:invitation_id>/revoke/",
        manage_views.invitation_revoke,
        name="invitation_revoke",
    ),
    path("projects/<slug:slug>/settings/", manage_views.settings, name="settings"),
    path("projects/<slug:slug>/guidelines/", manage_views.guidelines, name="guidelines"),
    path("invitations/<str:token>/", manage_views.invitation_accept, name="invitation"),
]
