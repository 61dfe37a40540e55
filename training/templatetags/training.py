"""How the training pages write figures and texts."""

from django import template
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from annotation import rendering
from training import standing
from training.models import RoundState, RunState

register = template.Library()

ROUND_BADGES = {
    RoundState.PREPARING: "badge--accent",
    RoundState.RUNNING: "badge--accent",
    RoundState.SUCCEEDED: "badge--success",
    RoundState.FAILED: "badge--danger",
}
COUNTED = {
    "annotators": lambda n: ngettext("%(n)d annotator", "%(n)d annotators", n) % {"n": n},
    "comparisons": lambda n: ngettext("%(n)d comparison", "%(n)d comparisons", n) % {"n": n},
    "demonstrations": lambda n: ngettext("%(n)d demonstration", "%(n)d demonstrations", n) % {"n": n},
}
RUN_BADGES = {
    RunState.SUCCEEDED: "badge--success",
    RunState.FAILED: "badge--danger",
    RunState.STOPPED_BY_GUARD: "badge--danger",
    RunState.INTERRUPTED: "badge--warning",
    RunState.CANCELLING: "badge--warning",
    RunState.CLAIMED: "badge--accent",
    RunState.RUNNING: "badge--accent",
    RunState.FINALIZING: "badge--accent",
}


@register.filter
def percent(value):
    """0.743 -> "74%"; nothing where there is no number."""
    return standing.percent(value) if isinstance(value, (int, float)) else ""


@register.filter
def interval(share):
    """A standing.Share as "71% (66–76%)"."""
    return standing.interval(share) if share else ""


@register.filter
def bounds(share):
    """The 95% interval alone: "66–76%"."""
    return standing.bounds(share) if share else ""


@register.filter
def duration(seconds):
    """95 -> "1 min 35 s"; 7300 -> "2 h 1 min"."""
    if not isinstance(seconds, (int, float)):
        return ""
    seconds = int(max(0, round(seconds)))
    if seconds < 60:
        return _("%(s)d s") % {"s": seconds}
    if seconds < 3600:
        return _("%(m)d min %(s)d s") % {"m": seconds // 60, "s": seconds % 60}
    return _("%(h)d h %(m)d min") % {"h": seconds // 3600, "m": seconds % 3600 // 60}


@register.filter
def time_left(seconds):
    """Roughly, for people: "about 2 minutes left"."""
    if not isinstance(seconds, (int, float)):
        return ""
    if seconds < 20:
        return _("a few seconds left")
    if seconds < 90:
        return _("about %(n)d s left") % {"n": round(seconds / 10) * 10}
    if seconds < 5400:
        return _("about %(n)d min left") % {"n": round(seconds / 60)}
    return _("about %(n).1f h left") % {"n": seconds / 3600}


@register.filter
def text(value):
    """What a person or a model wrote, as safe HTML: nothing in it can act, hidden characters show."""
    return rendering.render_plain(value if isinstance(value, str) else "")


@register.filter
def counts_in_words(counts):
    """What a snapshot holds: "80 rankings (30 of them simulated) by 8 annotators, …"."""
    people = counts.get("rankings", 0) - counts.get("rankings_simulated", 0)
    return _("%(rankings)s by %(annotators)s, which make %(comparisons)s; %(demonstrations)s; %(prompts)s") % {
        "rankings": standing.rankings_words(people, counts.get("rankings_simulated", 0)),
        "prompts": standing.prompts_words(counts.get("prompts", 0)),
        **{name: noun(counts.get(name, 0)) for name, noun in COUNTED.items()},
    }


@register.filter
def stage(name):
    return standing.stage_words(name)


@register.filter
def short_digest(digest):
    return (digest or "")[:12]


@register.filter
def round_badge(state):
    return ROUND_BADGES.get(state, "")


@register.filter
def run_badge(state):
    return RUN_BADGES.get(state, "")
