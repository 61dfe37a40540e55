"""What a project asks of the people who rank: the keys of Project.ranking_form, their defaults and their rules."""

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

BEST, WORST = "best", "worst"
OBJECTIVES = (BEST, WORST)
MAX_CHOICES = 30
MAX_TEXT = 2_000  # characters of a question or a warning

# InstructGPT's labels for one answer (arXiv:2203.02155, table 3), in the words of our pages.
DEFAULT_FLAGS = (
    ("wrong_task", gettext_lazy("does not do what was asked")),
    ("inappropriate", gettext_lazy("inappropriate for an assistant")),
    ("hallucination", gettext_lazy("makes things up")),
    ("sexual", gettext_lazy("sexual content")),
    ("violent", gettext_lazy("violent content")),
    ("encourages_harm", gettext_lazy("encourages violence, abuse or self-harm")),
    ("denigrates", gettext_lazy("denigrates a group of people")),
    ("harmful_advice", gettext_lazy("gives harmful advice")),
    ("opinion", gettext_lazy("expresses an opinion")),
    ("moral_judgment", gettext_lazy("expresses a moral judgment")),
)
SWITCHES = ("overall", "rationale", "rewrite", "strength", "sensitive", "write_answers", "write_prompts")
CHOICES = ("axes", "flags")
TEXTS = ("note", "warning")


def choices(pairs):
    """[{"key", "label"}] of (key, label) pairs."""
    return [{"key": key, "label": str(label)} for key, label in pairs]


def form_of(project):
    """What the pages of this project ask, its own choices over the defaults.

    overall: rate each answer from 1 to 7; axes: further such ratings; flags: what can be wrong with one answer;
    strength: of two answers, how much better the first is; rationale: a box for the reasons; rewrite: a better answer,
    kept as a demonstration; note: a question to be answered in writing before the answers are shown, "" for none;
    objective: "best" first or, for red-teaming, "worst" first (stored best first all the same); sensitive: consent is
    asked first, with the words of `warning`, and texts are covered until opened; write_answers, write_prompts: people
    may write demonstrations, propose prompts.
    """
    form = {
        "overall": False,
        "axes": [],
        "flags": choices(DEFAULT_FLAGS),
        "strength": False,
        "rationale": True,
        "rewrite": True,
        "note": "",
        "objective": BEST,
        "sensitive": False,
        "warning": "",
        "write_answers": False,
        "write_prompts": False,
    } | project.ranking_form
    # Whoever looks for harm is asked first, whatever the settings say.
    return form | {"sensitive": form["sensitive"] or form["objective"] == WORST}


def turn(groups, form):
    """Tie groups as stored, best first, to those that the page shows; and back."""
    return groups[::-1] if form["objective"] == WORST else groups


def check_ranking_form(form):
    """Raises ValidationError unless `form` is a partial ranking form, as form_of describes it."""
    if not isinstance(form, dict):
        raise ValidationError({"ranking_form": _("must be an object.")})
    for key, value in form.items():
        if key in SWITCHES:
            if not isinstance(value, bool):
                raise ValidationError({"ranking_form": _("%(key)s must be true or false.") % {"key": key}})
        elif key in CHOICES:
            check_choices(key, value)
        elif key in TEXTS:
            check_question(key, value)
        elif key == "objective":
            if value not in OBJECTIVES:
                raise ValidationError({"ranking_form": _("objective must be “best” or “worst”.")})
        else:
            raise ValidationError({"ranking_form": _("has the unknown key “%(key)s”.") % {"key": str(key)[:80]}})


def check_question(name, text):
    if not isinstance(text, str) or len(text) > MAX_TEXT or "\x00" in text:
        raise ValidationError(
            {
                "ranking_form": _("%(key)s must be a text of at most %(limit)d characters.")
                % {"key": name, "limit": MAX_TEXT}
            }
        )


def check_choices(name, found):
    if not isinstance(found, list) or len(found) > MAX_CHOICES:
        raise ValidationError(
            {"ranking_form": _("%(key)s must be a list of at most %(limit)d.") % {"key": name, "limit": MAX_CHOICES}}
        )
    keys = []
    for choice in found:
        if (
            not isinstance(choice, dict)
            or set(choice) != {"key", "label"}
            or not all(
                isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() for text in choice.values()
            )
        ):
            raise ValidationError(
                {"ranking_form": _('%(key)s must be a list of {"key": "…", "label": "…"}.') % {"key": name}}
            )
        keys.append(choice["key"])
    if len(set(keys)) != len(keys) or (name == "axes" and "overall" in keys):
        raise ValidationError({"ranking_form": _("%(key)s must have keys that differ.") % {"key": name}})
