from django.urls import path

from annotation import api

urlpatterns = [
    path("projects/", api.project_list, name="api_projects"),
    path("projects/<slug:slug>/", api.project_detail, name="api_project"),
    path("projects/<slug:slug>/prompt-sets/", api.prompt_sets, name="api_prompt_sets"),
    path("projects/<slug:slug>/next/", api.next_task, name="api_next"),
    path("projects/<slug:slug>/export/<slug:format_name>/", api.export, name="api_export"),
    path("projects/<slug:slug>/completions/", api.completion_list, name="api_completions"),
    path("projects/<slug:slug>/tasks/", api.task_list, name="api_tasks"),
    path("projects/<slug:slug>/demonstrations/", api.demonstration_list, name="api_demonstrations"),
    path(
        "projects/<slug:slug>/demonstrations/<uuid:demonstration_id>/withdraw/",
        api.demonstration_withdraw,
        name="api_demonstration_withdraw",
    ),
    path("projects/<slug:slug>/members/", api.member_list, name="api_members"),
    path("projects/<slug:slug>/members/<str:username>/", api.member_detail, name="api_member"),
    path("projects/<slug:slug>/snapshots/", api.snapshot_list, name="api_snapshots"),
    path("assignments/<uuid:assignment_id>/ranking/", api.submit, name="api_ranking"),
    path("assignments/<uuid:assignment_id>/question/", api.ask, name="api_ask"),
    path("assignments/<uuid:assignment_id>/skip/", api.skip, name="api_skip"),
    path("assignments/<uuid:assignment_id>/heartbeat/", api.heartbeat, name="api_heartbeat"),
    path("assignments/<uuid:assignment_id>/release/", api.release, name="api_release"),
]
