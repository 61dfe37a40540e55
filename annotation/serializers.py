"""Bodies of the API: what comes in, checked strictly, and what goes out."""

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from annotation.messages import message_text
from annotation.models import Purpose, Role
from annotation.projects import bounds

MAX_INTEGER = 2**31 - 1


class StrictSerializer(serializers.Serializer):
    """Refuses a key that it does not know, instead of ignoring what somebody thought would be done."""

    def to_internal_value(self, data):
        checked = super().to_internal_value(data)
        writable = {name for name, field in self.fields.items() if not field.read_only}
        unknown = sorted(str(key) for key in set(data) - writable)
        if unknown:
            raise serializers.ValidationError({key[:80]: [_("This key is not known here.")] for key in unknown[:20]})
        return checked


class ProjectInput(StrictSerializer):
    name = serializers.CharField(max_length=200)
    slug = serializers.SlugField(max_length=64, required=False)
    description = serializers.CharField(required=False, allow_blank=True, max_length=20_000)
    completions_per_task = serializers.IntegerField(required=False, **bounds("completions_per_task"))
    overlap = serializers.IntegerField(required=False, **bounds("overlap"))
    lease_seconds = serializers.IntegerField(required=False, **bounds("lease_seconds"))
    daily_goal = serializers.IntegerField(required=False, **bounds("daily_goal"))
    qualification_tasks = serializers.IntegerField(required=False, **bounds("qualification_tasks"))
    qualification_percent = serializers.IntegerField(required=False, **bounds("qualification_percent"))
    ranking_form = serializers.JSONField(required=False)
    gold_share = serializers.FloatField(required=False, **bounds("gold_share"))
    repeat_share = serializers.FloatField(required=False, **bounds("repeat_share"))
    weigh_annotators = serializers.BooleanField(required=False)


class ProjectChange(ProjectInput):
    name = serializers.CharField(max_length=200, required=False)
    slug = None


class PromptSetInput(StrictSerializer):
    file = serializers.FileField(allow_empty_file=True)
    name = serializers.CharField(max_length=200, required=False)
    format = serializers.CharField(max_length=16, required=False, default="auto")
    pool = serializers.CharField(max_length=16, required=False, allow_blank=True, default="")


class RankingInput(StrictSerializer):
    """Everything but client_id and ranking may be left out; rankings.py checks what each value may be."""

    client_id = serializers.CharField(max_length=64)
    ranking = serializers.JSONField(help_text=_("Tie groups of answer ids, best first: [[id, …], …]."))
    none_acceptable = serializers.JSONField(required=False, default=False)
    ratings = serializers.JSONField(required=False, default=dict)
    flags = serializers.JSONField(required=False, default=dict)
    rationale = serializers.JSONField(required=False, default="")
    note = serializers.JSONField(required=False, default="")
    strength = serializers.JSONField(required=False, default=None, allow_null=True)
    seconds = serializers.JSONField(required=False, default=None, allow_null=True)
    guideline_version = serializers.JSONField(required=False, default=None, allow_null=True)


class SkipInput(StrictSerializer):
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")


class QuestionInput(StrictSerializer):
    text = serializers.CharField(max_length=5_000)


class EmptyInput(StrictSerializer):
    pass


class ReleaseInput(StrictSerializer):
    lease_expires_at = serializers.DateTimeField(required=False)


class CompletionsInput(StrictSerializer):
    completions = serializers.ListField(child=serializers.DictField(), min_length=1, max_length=1000)


class TaskInput(StrictSerializer):
    prompt_digest = serializers.CharField(max_length=64, required=False)
    completions = serializers.ListField(child=serializers.UUIDField(), min_length=1, max_length=100)
    purpose = serializers.ChoiceField(
        choices=Purpose.choices,
        required=False,
        help_text=_("Left out: train, or eval where the prompt is of the pool eval, on which nothing trains."),
    )
    priority = serializers.IntegerField(required=False, default=0, min_value=-MAX_INTEGER, max_value=MAX_INTEGER)
    overlap = serializers.IntegerField(required=False, **bounds("overlap"))
    reason = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    propensity = serializers.FloatField(required=False, default=1.0)
    batch = serializers.CharField(max_length=64, required=False, allow_blank=True, default="")
    known_answer = serializers.JSONField(
        required=False,
        help_text=_("For purpose gold: what the order should be, [[id, …], …]. Nobody asked ever sees it."),
    )
    explanation = serializers.CharField(required=False, allow_blank=True, max_length=20_000)


class DemonstrationInput(StrictSerializer):
    """The prompt is named by its digest, or by one's own ranking of its answers."""

    ranking = serializers.UUIDField(required=False)
    prompt_digest = serializers.CharField(max_length=64, required=False)
    message = serializers.JSONField(required=False)
    text = serializers.CharField(required=False, trim_whitespace=False, max_length=2_000_000)

    def validate(self, data):
        if ("ranking" in data) == ("prompt_digest" in data):
            raise serializers.ValidationError({"ranking": _("Give either ranking or prompt_digest.")})
        if ("message" in data) == ("text" in data):
            raise serializers.ValidationError({"message": _("Give either message or text.")})
        if "text" in data:
            data["message"] = {"role": "assistant", "content": data["text"]}
        return data


class MemberInput(StrictSerializer):
    username = serializers.CharField(max_length=150)
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    simulated = serializers.BooleanField(required=False, default=False)


class MemberChange(StrictSerializer):
    role = serializers.ChoiceField(choices=Role.choices, required=False)
    active = serializers.BooleanField(required=False)


class SnapshotInput(StrictSerializer):
    include_simulated = serializers.BooleanField(required=False, default=True)
    purposes = serializers.ListField(
        child=serializers.ChoiceField(choices=Purpose.choices), required=False, min_length=1, max_length=6
    )


# What goes out


def project_object(project, role):
    return {
        "slug": project.slug,
        "name": project.name,
        "description": project.description,
        "completions_per_task": project.completions_per_task,
        "overlap": project.overlap,
        "lease_seconds": project.lease_seconds,
        "daily_goal": project.daily_goal,
        "qualification_tasks": project.qualification_tasks,
        "qualification_percent": project.qualification_percent,
        "ranking_form": project.ranking_form,
        "gold_share": project.gold_share,
        "repeat_share": project.repeat_share,
        "weigh_annotators": project.weigh_annotators,
        "created_at": project.created_at,
        "role": role,
    }


def prompt_set_object(prompt_set):
    return {
        "id": str(prompt_set.pk),
        "name": prompt_set.name,
        "version": prompt_set.version,
        "file_name": prompt_set.file_name,
        "file_sha256": prompt_set.file_sha256,
        "counts": prompt_set.counts,
        "active": prompt_set.active,
        "created_at": prompt_set.created_at,
    }


def import_object(report):
    return {
        **prompt_set_object(report.prompt_set),
        "prompts": report.prompts,
        "dropped": report.dropped,
        "already_imported": report.already_imported,
    }


def next_object(assignment, completions):
    """What an annotator gets: nothing in it tells whose answer is whose.

    completions: {id as text: Completion} of the cards.
    """
    return {
        "assignment": {"id": str(assignment.pk), "state": assignment.state},
        "prompt": assignment.task.prompt.messages,
        "completions": [
            {
                "id": completion_id,
                "text": message_text(completions[completion_id].message),
                "messages": [completions[completion_id].message],
            }
            for completion_id in assignment.presented_order
        ],
        "lease_expires_at": assignment.lease_expires_at,
    }


def assignment_object(assignment):
    return {
        "assignment": {"id": str(assignment.pk), "state": assignment.state},
        "lease_expires_at": assignment.lease_expires_at,
    }


def question_object(question):
    return {
        "id": str(question.pk),
        "assignment": str(question.assignment_id),
        "text": question.text,
        "asked_at": question.asked_at,
    }


def ranking_object(ranking):
    return {
        "id": str(ranking.pk),
        "assignment": str(ranking.assignment_id),
        "client_id": ranking.client_id,
        "version": ranking.version,
        "counted": ranking.is_counted,
        "ranking": ranking.order,
        # Sorted: the stored order is the task's, which tells the new policy's answers from the old one's.
        "unranked": sorted(ranking.unranked),
        "none_acceptable": ranking.none_acceptable,
        "created_at": ranking.created_at,
    }


def completion_object(completion):
    return {"id": str(completion.pk), "prompt_digest": completion.prompt.digest}


def task_object(task):
    return {
        "id": str(task.pk),
        "prompt_digest": task.prompt.digest,
        "purpose": task.purpose,
        "priority": task.priority,
        "overlap": task.overlap,
        "reason": task.reason,
        "propensity": task.propensity,
        "batch": task.batch,
        "completions": [str(entry.completion_id) for entry in task.entries.all()],
        "slots": {state: sum(slot.state == state for slot in task.slots.all()) for state in ("open", "leased", "done")},
        "created_at": task.created_at,
        "closed_at": task.closed_at,
    }


def demonstration_object(demonstration):
    return {
        "id": str(demonstration.pk),
        "prompt_digest": demonstration.prompt.digest,
        "message": demonstration.message,
        "source": demonstration.source,
        "created_at": demonstration.created_at,
        "withdrawn_at": demonstration.withdrawn_at,
    }


def member_object(member):
    return {
        "username": member.user.get_username(),
        "role": member.role,
        "pseudonym": member.pseudonym,
        "simulated": member.simulated,
        "active": member.active,
        "created_at": member.created_at,
    }


def snapshot_object(snapshot):
    return {
        "number": snapshot.number,
        "uri": snapshot.uri,
        "digest": snapshot.digest,
        "counts": snapshot.counts,
        "filters": snapshot.filters,
        "created_at": snapshot.created_at,
    }
