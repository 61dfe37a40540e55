"""What the API shows of rounds, runs and checkpoints, and what it takes."""

from django.utils.translation import gettext_lazy as _
from rest_framework import serializers

from annotation.serializers import StrictSerializer
from training.models import Checkpoint, Round, Run
from training.runs import NEEDED_INPUTS


class NewRoundSerializer(StrictSerializer):
    overrides = serializers.DictField(default=dict, help_text=_('Settings of this round alone: {"ppo.kl_coef": 0.1}'))


class NewRunSerializer(StrictSerializer):
    stage = serializers.ChoiceField(choices=sorted(NEEDED_INPUTS))
    name = serializers.CharField(max_length=200, default="", allow_blank=True)
    config = serializers.DictField(default=dict, help_text=_("Settings over those of the project's plan"))
    inputs = serializers.DictField(
        child=serializers.CharField(max_length=64),
        default=dict,
        help_text=_('Artifacts by digest: {"policy": checkpoint, "rankings": snapshot}'),
    )


class RunSerializer(serializers.ModelSerializer):
    project = serializers.SlugRelatedField(slug_field="slug", read_only=True)
    round = serializers.SlugRelatedField(slug_field="number", read_only=True)

    class Meta:
        model = Run
        fields = [
            "id",
            "project",
            "round",
            "position",
            "stage",
            "name",
            "state",
            "message",
            "inputs",
            "config",
            "attempts",
            "step",
            "total_steps",
            "summary",
            "output_digest",
            "created_at",
            "started_at",
            "advanced_at",
            "finished_at",
        ]
        read_only_fields = fields


class RoundRunSerializer(serializers.ModelSerializer):
    """A run inside its round: where it stands."""

    class Meta:
        model = Run
        fields = ["id", "position", "stage", "state", "message", "step", "total_steps", "summary", "output_digest"]
        read_only_fields = fields


class RoundSerializer(serializers.ModelSerializer):
    runs = serializers.SerializerMethodField()
    snapshot = serializers.SlugRelatedField(slug_field="digest", read_only=True)
    base_policy = serializers.SlugRelatedField(slug_field="digest", read_only=True)

    class Meta:
        model = Round
        fields = [
            "id",
            "number",
            "state",
            "message",
            "recipe",
            "snapshot",
            "base_policy",
            "result",
            "runs",
            "created_at",
            "finished_at",
        ]
        read_only_fields = fields

    def get_runs(self, round) -> list[dict]:
        return RoundRunSerializer(round.runs.order_by("position"), many=True).data


class MetricSerializer(serializers.Serializer):
    step = serializers.IntegerField()
    values = serializers.DictField(child=serializers.FloatField(allow_null=True))
    time = serializers.DateTimeField()


class MetricsSerializer(serializers.Serializer):
    state = serializers.CharField()
    message = serializers.CharField()
    step = serializers.IntegerField()
    total_steps = serializers.IntegerField()
    metrics = MetricSerializer(many=True)


class CheckpointSerializer(serializers.ModelSerializer):
    parent = serializers.SlugRelatedField(slug_field="digest", read_only=True)
    run = serializers.PrimaryKeyRelatedField(read_only=True)

    class Meta:
        model = Checkpoint
        fields = [
            "id",
            "name",
            "role",
            "state",
            "digest",
            "size_bytes",
            "parent",
            "run",
            "figures",
            "created_at",
            "promoted_at",
        ]
        read_only_fields = fields
