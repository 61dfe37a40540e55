"""Forms of the training pages: a new project, a checkpoint from the data directory, the plan."""

import json
from pathlib import Path

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from annotation import starting_points
from training import plans, runs
from training.engine import config
from training.models import CheckpointRole

OWN_FOLDERS = ("checkpoints", "rounds", "runs", "snapshots")  # of the data directory


class ProjectForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=200)
    description = forms.CharField(
        label=_("What should the model get better at?"),
        required=False,
        max_length=2000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One or two sentences for the people who will work on it."),
    )
    starting_point = forms.ChoiceField(
        label=_("Begin with"),
        required=False,
        widget=forms.RadioSelect,
        initial=starting_points.ASSISTANT.key,
        help_text=_(
            "Questions, flags and a guideline. All of it can be changed later, under “Settings” and “Guidelines”."
        ),
    )

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["starting_point"].choices = [
            (
                point.key,
                format_html('<span><b>{}</b><br><span class="quiet">{}</span></span>', point.title, point.summary),
            )
            for point in starting_points.ALL
        ]

    def clean_starting_point(self):
        return starting_points.BY_KEY.get(self.cleaned_data["starting_point"], starting_points.EMPTY)


class CheckpointForm(forms.Form):
    """A checkpoint that lies in the data directory already."""

    path = forms.CharField(label=_("Folder"), max_length=1000)
    name = forms.CharField(label=_("Name"), max_length=200)
    role = forms.ChoiceField(label=_("What it is"), choices=CheckpointRole.choices, initial=CheckpointRole.SFT)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["path"].help_text = _(
            "A Hugging Face directory (config.json, model.safetensors, tokenizer.json), relative to %(folder)s."
        ) % {"folder": settings.PLUMBLINE_DATA_DIR}

    def clean_path(self):
        """The folder's absolute path, which must lie below the data directory, links followed, and be nobody's yet.

        What Plumbline itself keeps there belongs to some project, not necessarily to this one.
        """
        base = Path(settings.PLUMBLINE_DATA_DIR).resolve()
        try:
            path = (base / self.cleaned_data["path"]).resolve()
            inside = path.is_relative_to(base) and path != base and path.is_dir()
        except (OSError, ValueError):
            inside = False
        if not inside:
            raise ValidationError(
                _("There is no such folder below %(folder)s. Copy the checkpoint there first.") % {"folder": base}
            )
        if path.relative_to(base).parts[0] in OWN_FOLDERS:
            raise ValidationError(
                _("Plumbline itself keeps its files there. Copy the checkpoint to another folder of %(folder)s.")
                % {"folder": base}
            )
        if not (path / "config.json").is_file():
            raise ValidationError(_("This folder has no config.json, so it is no Hugging Face directory."))
        return path


# Settings of the engine that the form offers: (field, key of the engine, label, help).
OFFERED = (
    (
        "kl_coef",
        "ppo.kl_coef",
        _("KL penalty"),
        _(
            "How strongly the policy is held to the SFT model. Raise it when answers turn strange, lower it when "
            "nothing changes."
        ),
    ),
    (
        "iterations",
        "ppo.iterations",
        _("PPO iterations"),
        _("Rounds of writing answers and learning from them. More takes longer and moves the policy further."),
    ),
    (
        "epochs",
        "reward_model.epochs",
        _("Reward-model epochs"),
        _("Passes over all rankings. Few rankings need more passes; too many learn them by heart."),
    ),
)
MOST_TASKS = 100_000


class SettingsField(forms.CharField):
    """{"section.key": value} of the engine, one `section.key = value` a line; values as JSON, or plain text."""

    widget = forms.Textarea

    def prepare_value(self, value):
        if isinstance(value, dict):
            return "\n".join(f"{key} = {json.dumps(item)}" for key, item in value.items())
        return value

    def clean(self, value):
        settings = {}
        for number, line in enumerate(super().clean(value).splitlines(), start=1):
            key, equals, text = (part.strip() for part in line.partition("="))
            if line.strip() and not (key and equals and text):
                raise ValidationError(_("Line %(n)d must read: section.key = value.") % {"n": number})
            if line.strip():
                settings[key] = self.parse(text)
        return settings

    @staticmethod
    def parse(text):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text


class PlanForm(forms.Form):
    """How a project trains. Empty fields of the engine take the preset's value."""

    preset = forms.ChoiceField(
        label=_("Preset"),
        help_text=_(
            "Settings that suit a size of model and machine. Fields left empty below take its values, shown in grey."
        ),
    )
    kl_coef = forms.FloatField(required=False, min_value=0)
    iterations = forms.IntegerField(required=False, min_value=1)
    epochs = forms.IntegerField(required=False, min_value=1)
    tasks_per_round = forms.IntegerField(
        label=_("New tasks after a round"),
        min_value=0,
        max_value=MOST_TASKS,
        help_text=_("How many prompts the new model answers for people to rank."),
    )
    comparison_percent = forms.IntegerField(
        label=_("Share of blind comparisons, %"),
        min_value=0,
        max_value=100,
        help_text=_(
            "Of the new tasks, how many mix answers of the new and the old model without saying which is which. They "
            "measure progress and are not trained on."
        ),
    )
    auto_promote = forms.BooleanField(
        label=_("Promote a policy by itself"),
        required=False,
        help_text=_(
            "When the reward model is sure that it beats the old one, on prompts that training never saw (pool "
            "“eval”). Where the project has none of these, and without this, an admin decides."
        ),
    )
    retrain_after_rankings = forms.IntegerField(
        label=_("Start a round by itself after"),
        min_value=0,
        max_value=MOST_TASKS,
        help_text=_("New rankings; 0 starts rounds only by hand."),
    )
    further = SettingsField(
        label=_("Further settings"),
        required=False,
        max_length=10_000,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
        help_text=_("One a line, such as “ppo.clip_range = 0.1”; every setting of the engine, over the preset's."),
    )

    def __init__(self, *args, plan, **kwargs):
        self.plan = plan
        super().__init__(*args, initial=self.initial_values(plan), **kwargs)
        # Custom presets keep their place in the list.
        self.fields["preset"].choices = [(name, name) for name in sorted({*config.presets(), plan.preset})]
        for name, key, label, help_text in OFFERED:
            self.fields[name].label = label
            self.fields[name].help_text = help_text
            self.fields[name].widget.attrs["placeholder"] = self.preset_value(key)

    @staticmethod
    def initial_values(plan):
        return {
            "preset": plan.preset,
            "tasks_per_round": plan.tasks_per_round,
            "comparison_percent": round(100 * plan.comparison_share),
            "auto_promote": plan.auto_promote,
            "retrain_after_rankings": plan.retrain_after_rankings,
            **{name: plan.overrides.get(key) for name, key, *_rest in OFFERED},
            "further": {key: value for key, value in plan.overrides.items() if key not in OFFERED_KEYS},
        }

    def preset_value(self, key):
        """What holds where the field is left empty; nothing for a preset that is no more."""
        try:
            values = runs.resolve_config({}, preset=self.plan.preset)
        except runs.RunError:
            return ""
        for part in key.split("."):
            values = values[part]
        return f"{values:g}"

    def clean(self):
        """Also asks the engine itself whether the settings fit together, and passes its sentence on."""
        values = super().clean()
        if self.errors:
            return values
        twice = next((key for key in values["further"] if key in OFFERED_KEYS), None)
        if twice:
            raise ValidationError({"further": _("%(key)s has a field of its own; set it there.") % {"key": twice}})
        overrides = values["further"] | {key: values[name] for name, key, *_rest in OFFERED if values[name] is not None}
        try:
            runs.resolve_config(overrides, preset=values["preset"])
        except runs.RunError as error:
            raise ValidationError(str(error)) from error
        values["overrides"] = overrides
        return values

    def save(self, project, *, actor):
        values = self.cleaned_data
        return plans.change_plan(
            project,
            actor=actor,
            preset=values["preset"],
            overrides=values["overrides"],
            tasks_per_round=values["tasks_per_round"],
            comparison_share=values["comparison_percent"] / 100,
            auto_promote=values["auto_promote"],
            retrain_after_rankings=values["retrain_after_rankings"],
        )


OFFERED_KEYS = {key for _name, key, *_rest in OFFERED}
