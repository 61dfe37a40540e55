from django.urls import path

from annotation import views

app_name = "annotation"

urlpatterns = [
    path("projects/<slug:slug>/rank/", views.rank, name="rank"),
    path("projects/<slug:slug>/rank/task/", views.rank_task, name="rank_task"),
    path("projects/<slug:slug>/rank/<uuid:assignment_id>/", views.edit_ranking, name="edit_ranking"),
    path("projects/<slug:slug>/work/", views.work, name="work"),
]
