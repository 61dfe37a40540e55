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
    """The 95% interval of {"low", "high"}, such as "66–76%"."""
    return quality_page.bounds(value["low"], value["high"])
