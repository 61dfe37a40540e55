"""Django's admin, for looking only."""

from django.contrib import admin

from plumbline.admin import ReadOnlyAdmin
from training.models import Attempt, Checkpoint, Plan, ResumePoint, Round, Run


@admin.register(Plan)
class PlanAdmin(ReadOnlyAdmin):
    list_display = ["project", "preset", "tasks_per_round", "comparison_share", "auto_promote"]


@admin.register(Round)
class RoundAdmin(ReadOnlyAdmin):
    list_display = ["project", "number", "state", "created_at", "finished_at"]
    list_filter = ["state", "project"]


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "round", "stage", "state", "attempts", "step", "total_steps", "created_at"]
    list_filter = ["state", "stage", "project"]


@admin.register(Attempt)
class AttemptAdmin(ReadOnlyAdmin):
    list_display = ["run", "number", "pid", "resumed_from_step", "last_step", "exit_code", "started_at", "ended_at"]


@admin.register(ResumePoint)
class ResumePointAdmin(ReadOnlyAdmin):
    list_display = ["run", "step", "uri", "digest", "created_at"]


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnlyAdmin):
    list_display = ["name", "project", "role", "state", "digest", "created_at"]
    list_filter = ["state", "role", "project"]
