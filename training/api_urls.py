from django.urls import path

from training import api

urlpatterns = [
    path("projects/<slug:slug>/rounds/", api.start_round, name="api_rounds"),
    path("projects/<slug:slug>/rounds/<int:number>/", api.show_round, name="api_round"),
    path("projects/<slug:slug>/runs/", api.create_run, name="api_runs"),
    path("runs/<uuid:run_id>/", api.show_run, name="api_run"),
    path("runs/<uuid:run_id>/metrics/", api.show_metrics, name="api_run_metrics"),
    path("runs/<uuid:run_id>/cancel/", api.cancel_run, name="api_run_cancel"),
    path("projects/<slug:slug>/checkpoints/", api.list_checkpoints, name="api_checkpoints"),
    path("checkpoints/<uuid:checkpoint_id>/promote/", api.promote_checkpoint, name="api_checkpoint_promote"),
]
