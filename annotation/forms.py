"""Forms of the admins' pages: importing prompts, people, settings, guidelines; and joining by invitation."""

import uuid
from datetime import datetime, time, timedelta

from django import forms
from django.contrib.auth import password_validation
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.text import slugify
from django.utils.translation import gettext_lazy as _

from annotation.models import Membership, Pool, Purpose, Role
from annotation.projects import MAX_GUIDELINE, bounds
from annotation.proposals import MAX_PROPOSAL
from annotation.ranking_form import BEST, CHOICES, MAX_CHOICES, MAX_TEXT, WORST, form_of


class PoolForm(forms.Form):
    pool = forms.ChoiceField(
        label=_("What the prompts are for"),
        required=False,
        choices=[
            ("", _("share them out")),
            *Pool.choices,
        ],
        help_text=_(
            "Only for prompts that name no pool of their own. Shared out, half are ranked; the rest serve PPO, "
            "demonstrations and evaluation."
        ),
    )


class PromptsForm(PoolForm):
    field_order = ("file", "name", "pool")

    file = forms.FileField(
        label=_("File"),
        allow_empty_file=True,
        help_text=_(
            "JSONL with “prompt” or “messages” in each line, or CSV with a column “prompt”. "
            "“pool” and “group” are optional."
        ),
    )
    name = forms.CharField(
        label=_("Name of the set"),
        max_length=200,
        required=False,
        help_text=_("Without one the file's name is taken. The same name again is the set's next version."),
    )


class KnownAnswersForm(forms.Form):
    file = forms.FileField(
        label=_("File"),
        allow_empty_file=True,
        help_text=_(
            "JSONL as in the project's own export “native”: each line has “prompt”, “completions” and “ranking”, the "
            "known order, best first; “rationale” explains it."
        ),
    )
    purpose = forms.ChoiceField(
        label=_("What the tasks are for"),
        choices=[
            (Purpose.GOLD, _("hidden checks: asked among the real tasks, and in the test before them")),
            (Purpose.PRACTICE, _("practice: shown with the known order and its explanation")),
        ],
        initial=Purpose.GOLD,
        widget=forms.RadioSelect,
    )


class DecisionForm(PoolForm):
    """What an admin decides about proposed prompts."""

    decision = forms.ChoiceField(choices=[("accept", ""), ("decline", "")])
    proposals = forms.TypedMultipleChoiceField(coerce=uuid.UUID)

    def __init__(self, data):
        super().__init__(data)
        self.fields["proposals"].choices = [(key, key) for key in data.getlist("proposals")[:1000] if is_uuid(key)]


def is_uuid(text):
    try:
        return uuid.UUID(text) is not None
    except ValueError:
        return False


class AnswerForm(forms.Form):
    text = forms.CharField(
        label=_("How should the model answer?"),
        strip=False,
        max_length=100_000,
        widget=forms.Textarea(attrs={"rows": 12}),
        help_text=_("Write the whole answer, as you would like to get it. Markdown and formulas are shown formatted."),
    )


class ProposalForm(forms.Form):
    text = forms.CharField(
        label=_("What would somebody ask?"),
        max_length=MAX_PROPOSAL,
        widget=forms.Textarea(attrs={"rows": 6}),
        help_text=_("One request, as somebody would really type it, with all that is needed to answer it."),
    )


class InvitationForm(forms.Form):
    role = forms.ChoiceField(label=_("Joins as"), choices=Role.choices, initial=Role.ANNOTATOR)
    note = forms.CharField(
        label=_("For whom?"), max_length=200, required=False, help_text=_("Only admins see this note.")
    )


class MemberForm(forms.Form):
    member = forms.IntegerField(widget=forms.HiddenInput)
    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, required=False)
    active = forms.NullBooleanField(required=False)


class QuarantineForm(forms.Form):
    member = forms.IntegerField(widget=forms.HiddenInput)
    quarantined = forms.BooleanField(required=False)


class WithdrawalForm(forms.Form):
    """Whose judgments of which days are taken out of use."""

    annotator = forms.ModelChoiceField(label=_("Whose"), queryset=Membership.objects.none())
    since = forms.DateField(label=_("From"), required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(
        label=_("Up to and including"), required=False, widget=forms.DateInput(attrs={"type": "date"})
    )
    reason = forms.CharField(label=_("Why"), max_length=500)

    def __init__(self, *args, project, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["annotator"].queryset = project.memberships.select_related("user")
        self.fields["annotator"].label_from_instance = lambda member: member.user.get_username()

    def clean(self):
        since, until = self.cleaned_data.get("since"), self.cleaned_data.get("until")
        if since and until and until < since:
            self.add_error("until", _("The last day lies before the first."))
        return self.cleaned_data

    def period(self):
        """What to hand to withdrawals.withdraw: whole days of the server's time zone."""
        until = self.cleaned_data["until"]
        return {
            "annotator": self.cleaned_data["annotator"].user,
            "since": start_of(self.cleaned_data["since"]),
            "until": start_of(until + timedelta(days=1)) if until else None,
            "reason": self.cleaned_data["reason"],
        }


def start_of(day):
    return timezone.make_aware(datetime.combine(day, time.min)) if day else None


class LinesField(forms.CharField):
    """[{"key", "label"}], one label a line. A label that was there before keeps its key, which the data carries."""

    widget = forms.Textarea
    known = ()  # the choices until now

    def prepare_value(self, value):
        if isinstance(value, list):
            return "\n".join(choice["label"] for choice in value)
        return value

    def clean(self, value):
        keys = {choice["label"]: choice["key"] for choice in self.known}
        labels = list(dict.fromkeys(line.strip() for line in super().clean(value).splitlines() if line.strip()))
        if len(labels) > MAX_CHOICES:
            raise ValidationError(_("At most %(limit)d lines, please."), params={"limit": MAX_CHOICES})
        chosen = {label: keys[label] for label in labels if label in keys}
        for label in labels:
            if label not in chosen:
                chosen[label] = free_key(label, taken=chosen.values())
        return [{"key": chosen[label], "label": label} for label in labels]


def free_key(label, *, taken):
    """A key for a new label: two labels that would have the same are told apart by a number."""
    key = slugify(label)[:60].replace("-", "_") or label[:60]
    return next(free for free in (key, *(f"{key}_{number}" for number in range(2, 1000))) if free not in taken)


class SettingsForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=200)
    description = forms.CharField(
        label=_("Description"),
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("For the people who work on it: what should the model get better at?"),
    )
    completions_per_task = forms.IntegerField(
        label=_("Answers per task"),
        **bounds("completions_per_task"),
        help_text=_("From 2 to 9. More answers per task tell more, and take longer to read."),
    )
    overlap = forms.IntegerField(
        label=_("People per task"),
        **bounds("overlap"),
        help_text=_("With two or more you see how far people agree."),
    )
    daily_goal = forms.IntegerField(label=_("Tasks a person is asked to do a day"), **bounds("daily_goal"))
    lease_seconds = forms.IntegerField(
        label=_("Seconds a task stays reserved"),
        **bounds("lease_seconds"),
        help_text=_(
            "After this time without a sign of life the task goes to someone else. 900 are a quarter of an hour."
        ),
    )
    qualification_tasks = forms.IntegerField(
        label=_("Test tasks before real work"),
        required=False,
        **bounds("qualification_tasks"),
        help_text=_("A new annotator first ranks so many tasks with a known answer. 0: no test."),
    )
    qualification_percent = forms.IntegerField(
        label=_("Pairs to agree on in the test"),
        required=False,
        **bounds("qualification_percent"),
        help_text=_("Of 100 pairs of answers, how many must stand in the order of the known answers."),
    )
    gold_share = forms.FloatField(
        label=_("Share of hidden checks"),
        **bounds("gold_share"),
        help_text=_("Of 1, such as 0.1. Tasks with a known answer, mixed in unseen; none before there are some."),
    )
    repeat_share = forms.FloatField(
        label=_("Share of repeats"),
        **bounds("repeat_share"),
        help_text=_("Of 1. One's own earlier tasks asked again, to see how steady a judgment is."),
    )
    weigh_annotators = forms.BooleanField(
        label=_("Weigh rankings by reliability in training"),
        required=False,
        help_text=_("Whoever often differs from everybody else counts less."),
    )
    overall = forms.BooleanField(label=_("Ask how good each answer is, from 1 to 7"), required=False)
    axes = LinesField(
        label=_("Further ratings from 1 to 7"),
        required=False,
        max_length=10_000,
        help_text=_("One a line, such as “Is it true?”. Each costs time on every answer."),
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    flags = LinesField(
        label=_("What can be wrong with an answer"),
        required=False,
        max_length=10_000,
        help_text=_("Flags to be set on a single answer, one a line. A line that you reword counts as a new flag."),
        widget=forms.Textarea(attrs={"rows": 10}),
    )
    strength = forms.BooleanField(
        label=_("Ask how much better the better one is"),
        required=False,
        help_text=_("Only where a task has two answers: slightly, somewhat, clearly, much, by far."),
    )
    rationale = forms.BooleanField(label=_("Offer a box for the reasons"), required=False)
    rewrite = forms.BooleanField(
        label=_("Let people improve an answer"),
        required=False,
        help_text=_("What they write is kept as an example for the model to learn from."),
    )
    note = forms.CharField(
        label=_("A question to answer before the answers are shown"),
        required=False,
        max_length=MAX_TEXT,
        help_text=_(
            "Such as “What should a good answer contain?”. It keeps the first answer from setting the standard. "
            "Empty: nothing is asked."
        ),
    )
    objective = forms.ChoiceField(
        label=_("Which answer comes first?"),
        choices=[(BEST, _("the best one")), (WORST, _("the most harmful one, to find what the model must not say"))],
        widget=forms.RadioSelect,
        help_text=_("The order is stored best first either way."),
    )
    sensitive = forms.BooleanField(
        label=_("The texts may be disturbing"),
        required=False,
        help_text=_(
            "People are asked whether they want to see them, and every text stays covered until it is opened. "
            "Always so when the most harmful comes first."
        ),
    )
    warning = forms.CharField(
        label=_("What people are told before they agree"),
        required=False,
        max_length=MAX_TEXT,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("Say what kind of content it is. Empty: a general warning is shown."),
    )
    write_answers = forms.BooleanField(
        label=_("Let people write whole answers"),
        required=False,
        help_text=_("To the prompts for demonstrations. The model can learn from them before any ranking."),
    )
    write_prompts = forms.BooleanField(
        label=_("Let people propose prompts"),
        required=False,
        help_text=_("You decide on the page “Prompts” which are used."),
    )

    SECTIONS = (
        (_("The project"), ("name", "description")),
        (_("How the work is shared out"), ("completions_per_task", "overlap", "daily_goal", "lease_seconds")),
        (
            _("How the work is checked"),
            ("qualification_tasks", "qualification_percent", "gold_share", "repeat_share", "weigh_annotators"),
        ),
        (
            _("What is asked beside the order"),
            ("overall", "axes", "flags", "strength", "rationale", "rewrite", "note"),
        ),
        (_("Harm"), ("objective", "sensitive", "warning")),
        (_("Writing"), ("write_answers", "write_prompts")),
    )
    QUESTIONS = frozenset(name for _title, names in SECTIONS[3:] for name in names)

    def __init__(self, *args, project, **kwargs):
        stored = {name: getattr(project, name) for name in self.base_fields if name not in self.QUESTIONS}
        form = form_of(project)
        stored |= {name: form[name] for name in self.QUESTIONS}
        super().__init__(*args, initial=stored, **kwargs)
        for name in CHOICES:
            self.fields[name].known = form[name]

    def sections(self):
        """[(title, bound fields)], as the page shows them."""
        return [(title, [self[name] for name in names]) for title, names in self.SECTIONS]

    def settings(self):
        """What to hand to projects.change_project."""
        values = {
            name: value
            for name, value in self.cleaned_data.items()
            if name not in self.QUESTIONS and value is not None  # a number left out stays as it is
        }
        return values | {"ranking_form": {name: self.cleaned_data[name] for name in self.QUESTIONS}}


class GuidelineForm(forms.Form):
    text = forms.CharField(
        label=_("Guideline"),
        max_length=MAX_GUIDELINE,
        widget=forms.Textarea(attrs={"rows": 18}),
        help_text=_("Markdown. A change is a new version; every ranking remembers the version that it followed."),
    )
    requalify = forms.BooleanField(
        label=_("Everybody takes the test again"),
        required=False,
        help_text=_("Only where the settings ask for test tasks, and where there are some that a person has not met."),
    )


class JoinForm(forms.Form):
    """An account for someone who was invited."""

    username = forms.CharField(
        label=_("User name"),
        max_length=40,
        validators=[UnicodeUsernameValidator(message=_("Use letters, digits and @ . + - _ only, without spaces."))],
        help_text=_("Letters, digits and @ . + - _, without spaces; others in the project see it."),
    )
    password = forms.CharField(
        label=_("Password"),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("At least 10 characters."),
        max_length=1000,
    )

    def clean_password(self):
        password = self.cleaned_data["password"]
        password_validation.validate_password(password)
        return password


def add_errors(form, error):
    """Shows a noun module's ValidationError at the fields that the form has, and above the form otherwise."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for field, errors in error.message_dict.items():
        form.add_error(field if field in form.fields else None, ValidationError(errors))
