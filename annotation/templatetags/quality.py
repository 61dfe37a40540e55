"""How the pages on quality write figures."""

from django import template

from annotation import quality_page

register = template.Library()


@register.filter
def percent(value, digits=0):
    """0.7264 -> "73%", with one digit "72.6%"; nothing where there is no number."""
    return f"{100 * value:.{digits}f}%" if isinstance(value, (int, float)) else ""


@register.filter
def interval(value):
    """The 95% interval of [share, low, high, …] or {"low", "high"}, such as "66–76%"."""
    low, high = (value["low"], value["high"]) if isinstance(value, dict) else value[1:3]
    return quality_page.bounds(low, high)


@register.filter
def shares(figures):
    """The columns of shares in an annotator's row: [share, low, high, pairs] or None."""
    return [figures.get(name) for name in ("agreement", "known", "consistency")]


@register.filter
def habits(figures):
    """The columns of habits: [mean tau-b, low, high, rankings] or None."""
    return [figures.get(name) for name in ("position", "length")]
