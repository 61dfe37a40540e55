from django.urls import path

from training import views

app_name = "training"

urlpatterns = [
    path("projects/new/", views.new_project, name="new_project"),
    path("projects/<slug:slug>/", views.dashboard, name="dashboard"),
    path("projects/<slug:slug>/training/", views.plan, name="plan"),
    path("projects/<slug:slug>/first-answers/", views.write_first_answers, name="first_answers"),
    path("projects/<slug:slug>/rounds/", views.rounds_page, name="rounds"),
    path("projects/<slug:slug>/rounds/<int:number>/", views.round_page, name="round"),
    path("projects/<slug:slug>/rounds/<int:number>/cancel/", views.cancel_round, name="cancel_round"),
    path("projects/<slug:slug>/rounds/<int:number>/retry/", views.retry_round, name="retry_round"),
    path("projects/<slug:slug>/runs/<uuid:run_id>/", views.run_page, name="run"),
    path("projects/<slug:slug>/runs/<uuid:run_id>/cancel/", views.cancel_run, name="cancel_run"),
    path("projects/<slug:slug>/runs/<uuid:run_id>/log/", views.run_log, name="run_log"),
    path("projects/<slug:slug>/checkpoints/", views.checkpoints_page, name="checkpoints"),
    path("projects/<slug:slug>/checkpoints/starter/", views.use_starter, name="use_starter"),
    path("projects/<slug:slug>/checkpoints/<uuid:checkpoint_id>/promote/", views.promote, name="promote"),
    path("projects/<slug:slug>/checkpoints/<uuid:checkpoint_id>/withdraw/", views.withdraw, name="withdraw"),
]
