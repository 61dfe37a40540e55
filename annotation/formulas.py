r"""LaTeX inside Markdown -> MathML, which browsers draw and read aloud without a script.

`$…$`, `$$…$$`, `\(…\)` and `\[…\]` are found by mdit-py-plugins and converted by latex2mathml. The converter was not
made for hostile input (it drops comments, keeps `\href`, and fails with whatever exception happens), so a formula that
is broken, costly or could hide something is shown as it was written. annotation/rendering.py cleans what leaves here.
"""

import html
import re
from xml.etree.ElementTree import tostring

from latex2mathml.converter import Converter
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath.index import make_inline_func

FORMULA_CHARACTERS = 1_000  # of one formula
FORMULAS_CHARACTERS = 5_000  # of one text: about 60 ms; what is beyond is shown as it was written
FORMULA_DELIMITERS = 600  # of one text, paired or not: looking for an end that is missing costs time
DELIMITERS = re.compile(r"\$|\\[()\[\]]")

# Comments and phantoms would hide words from a judge, definitions can grow without end, the rest speaks to browsers.
REFUSED = re.compile(
    r"(?<!\\)%|\\(?:[hv]?phantom|mathchoice|smash|[rl]lap|clap|def|let|gdef|newcommand|renewcommand|newenvironment"
    r"|DeclareMathOperator|href|url|style|class|cssId|htmlClass|htmlStyle|htmlData|includegraphics|require)(?![a-zA-Z])"
)
TAGS = frozenset(
    "math menclose mfrac mi mn mo mover mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr munder "
    "munderover".split()
)
ATTRIBUTES = {
    "math": {"display"},
    "mo": {"stretchy", "fence", "form", "minsize", "maxsize"},
    "mi": {"mathvariant"},
    "mover": {"accent"},
    "mfrac": {"linethickness"},
    "mspace": {"width"},
    "mstyle": {"displaystyle"},
    "mtable": {"displaystyle"},
}
# Elements that mean nothing with more or fewer parts, as an unclosed \frac has.
CHILDREN = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "mover": 2, "munder": 2, "msubsup": 3, "munderover": 3}
# No negative space, which would draw one letter over another, and none as wide as a page.
ATTRIBUTE_VALUE = re.compile(r"true|false|normal|block|inline|prefix|postfix|infix|0|0?[0-4]?(\.\d{1,4})?em")

# Inline also on a line of its own: texmath's rules for blocks drop what follows the formula.
BRACKETS = (
    {"name": "math_inline", "rex": re.compile(r"\\\((.+?)\\\)", re.DOTALL), "tmpl": "", "tag": "\\("},
    {"name": "math_inline_double", "rex": re.compile(r"\\\[(.+?)\\\]", re.DOTALL), "tmpl": "", "tag": "\\["},
)


def find_formulas(markdown):
    """Teaches a Markdown parser the four ways to write a formula."""
    markdown.use(
        dollarmath_plugin,
        allow_labels=False,
        allow_space=False,  # "$5 or $6" is money
        allow_digits=False,
        allow_blank_lines=False,
        double_inline=True,
    )
    for rule in BRACKETS:
        markdown.inline.ruler.before("escape", "math" + rule["tag"], make_inline_func(rule))


def may_be_costly(text):
    return len(DELIMITERS.findall(text)) > FORMULA_DELIMITERS


def as_written(token):
    """A formula's source with its delimiters."""
    closing = {"\\(": "\\)", "\\[": "\\]"}.get(token.markup, token.markup)
    return f"{token.markup}{token.content}{closing}"


def to_mathml(latex, *, display):
    """MathML with all its text escaped, or None where the source must be shown. display: on a line of its own."""
    if len(latex) > FORMULA_CHARACTERS or not latex.strip() or REFUSED.search(latex):
        return None
    try:
        root = Converter(display="block" if display else "inline").convert_to_element(latex)
    except Exception:  # the converter's own, and whatever else broken LaTeX makes it stumble over
        return None
    for element in root.iter():
        if len(element) != CHILDREN.get(element.tag, len(element)):
            return None
        # The converter writes its signs as references inside the text.
        element.text = html.unescape(element.text or "")
    root.attrib.pop("xmlns", None)
    return tostring(root, encoding="unicode", short_empty_elements=False)


def clean_attribute(tag, name, value):
    """For nh3: the value of an attribute of MathML if it is one of ours, else None."""
    if tag in TAGS and not ATTRIBUTE_VALUE.fullmatch(value):
        return None
    return value
