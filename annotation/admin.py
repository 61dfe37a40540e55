"""Django's admin, for looking only: every write goes through the noun modules."""

from django.contrib import admin

from annotation import models
from plumbline.admin import ReadOnlyAdmin


@admin.register(models.Project)
class ProjectAdmin(ReadOnlyAdmin):
    list_display = ["name", "slug", "overlap", "completions_per_task", "created_at", "archived_at"]


@admin.register(models.Membership)
class MembershipAdmin(ReadOnlyAdmin):
    list_display = ["user", "project", "role", "pseudonym", "simulated", "active"]
    list_filter = ["project", "role", "simulated", "active"]
    list_select_related = ["user", "project"]


@admin.register(models.Invitation)
class InvitationAdmin(ReadOnlyAdmin):
    list_display = ["project", "role", "note", "created_by", "expires_at", "accepted_by", "revoked_at"]
    exclude = ["digest"]


@admin.register(models.Guideline)
class GuidelineAdmin(ReadOnlyAdmin):
    list_display = ["project", "version", "created_by", "created_at"]


@admin.register(models.Qualification)
class QualificationAdmin(ReadOnlyAdmin):
    list_display = ["project", "user", "guideline_version", "agreement", "passed", "created_at", "void_at"]
    list_filter = ["project", "passed"]
    list_select_related = ["project", "user"]


@admin.register(models.PromptSet)
class PromptSetAdmin(ReadOnlyAdmin):
    list_display = ["name", "version", "project", "file_name", "active", "created_at"]
    list_filter = ["project"]


@admin.register(models.Prompt)
class PromptAdmin(ReadOnlyAdmin):
    list_display = ["digest", "prompt_set", "pool", "group", "position"]
    list_filter = ["pool"]
    list_select_related = ["prompt_set"]
    search_fields = ["digest"]


@admin.register(models.Completion)
class CompletionAdmin(ReadOnlyAdmin):
    list_display = ["id", "prompt", "finish_reason", "policy_digest", "created_at"]
    list_select_related = ["prompt"]
    search_fields = ["policy_digest"]
    show_full_result_count = False


@admin.register(models.Task)
class TaskAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "purpose", "priority", "overlap", "reason", "batch", "created_at", "closed_at"]
    list_filter = ["project", "purpose"]
    list_select_related = ["project"]


@admin.register(models.TaskCompletion)
class TaskCompletionAdmin(ReadOnlyAdmin):
    list_display = ["task_id", "completion_id", "position", "card"]
    show_full_result_count = False


@admin.register(models.Slot)
class SlotAdmin(ReadOnlyAdmin):
    list_display = ["task_id", "number", "state", "priority"]
    list_filter = ["state"]
    show_full_result_count = False


@admin.register(models.Assignment)
class AssignmentAdmin(ReadOnlyAdmin):
    list_display = ["id", "task_id", "annotator", "state", "is_repeat", "lease_expires_at", "created_at"]
    list_filter = ["state"]
    list_select_related = ["annotator"]


@admin.register(models.Ranking)
class RankingAdmin(ReadOnlyAdmin):
    list_display = ["id", "task_id", "annotator", "source", "version", "is_current", "is_counted", "created_at"]
    list_filter = ["source", "is_current", "is_counted"]
    list_select_related = ["annotator"]


@admin.register(models.Demonstration)
class DemonstrationAdmin(ReadOnlyAdmin):
    list_display = ["id", "project", "author", "source", "created_at", "withdrawn_at"]
    list_filter = ["project", "source"]
    list_select_related = ["project", "author"]


@admin.register(models.Question)
class QuestionAdmin(ReadOnlyAdmin):
    list_display = ["project", "asked_by", "asked_at", "answered_by", "answered_at"]
    list_filter = ["project"]
    list_select_related = ["project", "asked_by", "answered_by"]


@admin.register(models.Snapshot)
class SnapshotAdmin(ReadOnlyAdmin):
    list_display = ["project", "number", "digest", "uri", "created_at"]
    list_select_related = ["project"]


@admin.register(models.AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "project", "actor", "action", "subject"]
    list_filter = ["project", "action"]
    list_select_related = ["project", "actor"]


@admin.register(models.KnownAnswer)
class KnownAnswerAdmin(ReadOnlyAdmin):
    list_display = ["task_id", "created_by", "created_at"]
    list_select_related = ["created_by"]


@admin.register(models.Withdrawal)
class WithdrawalAdmin(ReadOnlyAdmin):
    list_display = ["annotator", "project", "count", "created_by", "created_at", "reversed_at"]
    list_select_related = ["annotator", "project", "created_by"]


@admin.register(models.Suspicion)
class SuspicionAdmin(ReadOnlyAdmin):
    list_display = ["membership", "state", "created_at", "decided_by", "decided_at"]
    list_filter = ["state"]
    list_select_related = ["membership__user", "decided_by"]


@admin.register(models.QualityReport)
class QualityReportAdmin(ReadOnlyAdmin):
    list_display = ["project", "simulated", "computed_at", "seconds"]
    list_select_related = ["project"]
