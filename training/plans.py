"""Plans: how a project trains. Every write to that table."""

from django.db import transaction

from training import runs
from training.models import Plan

DEFAULT_PRESET = "tiny"


def plan_for(project):
    """The project's plan, or an unsaved one with the defaults."""
    return Plan.objects.filter(project=project).first() or Plan(project=project, preset=DEFAULT_PRESET)


@transaction.atomic
def change_plan(project, *, actor=None, **changes):
    """Saves the project's plan with these columns changed, and notes who did it.

    Raises runs.RunError when preset and overrides make no valid settings, ValidationError for a bad column.
    """
    plan = plan_for(project)
    for name, value in changes.items():
        setattr(plan, name, value)
    runs.resolve_config(plan.overrides, preset=plan.preset)
    plan.full_clean(exclude=["project"], validate_unique=False)
    plan.save()
    runs.audit(project, actor, "plan.changed", plan, changes=changes)
    return plan


def settings_of(plan):
    """What a round takes from the plan when it begins, as a stage of its recipe keeps it."""
    return {
        "preset": plan.preset,
        "overrides": plan.overrides,
        "tasks_per_round": plan.tasks_per_round,
        "comparison_share": plan.comparison_share,
    }
