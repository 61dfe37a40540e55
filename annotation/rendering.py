"""Untrusted text -> safe HTML: the only place where prompts, answers and guidelines become markup.

Markdown is parsed with raw HTML off, code is coloured and formulas are set (formulas.py) on the server, and what comes
out passes an allow-list (nh3), so two independent parts would have to fail before a script could run. Nothing rendered
here loads anything: images become their words. Characters that hide or reorder text are shown as markers. Text that is
very long, or that is made to cost time, is shown as it is, without Markdown: every path is linear in the text's length.
"""

import re
import unicodedata

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from markdown_it import MarkdownIt
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from annotation import formulas
from annotation.messages import content_text

MARKDOWN_CHARACTERS = 20_000  # longer text is shown without Markdown
MARKDOWN_DELIMITERS = 2_000  # as is text with more of these: link and emphasis parsing is worse than linear in them
DISPLAYED_CHARACTERS = 100_000  # what is beyond is counted, not shown: nobody reads it, and browsers choke on it
COLOURED_CHARACTERS = 5_000  # of one code block
COMBINING_MARKS = 4  # on one letter; more are counted
MAX_NESTING = 20

DELIMITERS = re.compile(r"[\[\]*_`~!<&\\]")
# Controls (but tab and line feed), zero-width and bidirectional characters, tags, and private markers.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
MARK_RUN = re.compile(
    r"[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]{5,}"
)
HIDDEN_OR_PILED = re.compile(f"{HIDDEN.pattern}|{MARK_RUN.pattern}")
# Lexers whose regular expressions are simple; another language is shown without colours.
COLOURED_LANGUAGES = frozenset(
    "bash c console cpp css diff go html ini java javascript js json kotlin python py ruby rust sh sql swift toml ts "
    "typescript xml yaml".split()
)
TAGS = frozenset(
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split()
).union(formulas.TAGS)
ATTRIBUTES = {
    **formulas.ATTRIBUTES,
    "a": {"href", "target"},
    "ol": {"start"},
    "span": {"class", "title"},
    "code": {"class"},
    "td": {"class"},
    "th": {"class"},
}


def render_markdown(text) -> SafeString:
    """Text of a prompt, an answer or a guideline as safe HTML. Line breaks stay."""
    if len(text) > MARKDOWN_CHARACTERS or len(DELIMITERS.findall(text)) > MARKDOWN_DELIMITERS:
        return render_plain(text)
    if formulas.may_be_costly(text):
        return render_plain(text)
    tokens = MARKDOWN.parse(text)
    # Markdown drops what is nested deeper; a judge must see all of it.
    if any(token.level >= MAX_NESTING - 1 for token in tokens):
        return render_plain(text)
    lower_headings(tokens)
    html = MARKDOWN.renderer.render(tokens, MARKDOWN.options, {})
    return mark_safe(
        nh3.clean(
            html,
            tags=set(TAGS),
            attributes=ATTRIBUTES,
            attribute_filter=formulas.clean_attribute,
            url_schemes={"http", "https", "mailto"},
            link_rel="noopener noreferrer nofollow",
            strip_comments=True,
        )
    )


def lower_headings(tokens):
    """Headings in people's texts stand below the page's own two levels."""
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 2)}"


def render_plain(text) -> SafeString:
    """The text exactly as it is, hidden characters shown as markers; the page keeps its white space."""
    shown = text[:DISPLAYED_CHARACTERS]
    html = f'<p class="verbatim">{show_hidden(shown)}</p>'
    left = len(text) - len(shown)
    if left:
        note = ngettext(
            "%(count)s further character is not shown.", "%(count)s further characters are not shown.", left
        )
        html += f'<p class="verbatim-note">{escape(note % {"count": f"{left:,}"})}</p>'
    return mark_safe(html)


def render_pieces(pieces) -> SafeString:
    """[(text, is_marked)] as it is, the marked pieces highlighted, for people who hear the page as well."""
    html = []
    for text, is_marked in pieces:
        shown = show_hidden(text)
        if is_marked:
            kept = shown.rstrip()
            begins, ends = escape(_("only here:")), escape(_("end"))
            heard = '<span class="visually-hidden">{} </span>'
            shown = f"<mark>{heard.format(begins)}{kept}{heard.format(' ' + ends)}</mark>{shown[len(kept) :]}"
        html.append(shown)
    return mark_safe("".join(html))


def message_text(message):
    """The text of a message's parts as it is hashed and trained; what is no text is named in brackets."""
    text = content_text(message["content"])
    shown = content_text(message["content"], named_in_brackets)
    return text if shown == text else shown.strip("\n")


def named_in_brackets(part):
    return "\n\n[" + _("%(kind)s, not shown") % {"kind": part.get("type", "?")} + "]\n\n"


def render_message(message):
    """A chat message as {"role", "speaker", "html", "plain"}, for templates."""
    text = message_text(message)
    role = str(message.get("role", ""))
    return {"role": role, "speaker": speaker(role), "html": render_markdown(text), "plain": render_plain(text)}


def speaker(role):
    return {"user": _("Person"), "assistant": _("Assistant"), "system": _("Instructions")}.get(role, role)


def show_hidden(text):
    """Escaped text in which hidden characters and piled-up combining marks are visible."""
    pieces = []
    end = 0
    for match in HIDDEN_OR_PILED.finditer(text):
        pieces.append(escape(text[end : match.start()]))
        pieces.append(marker(match.group()))
        end = match.end()
    pieces.append(escape(text[end:]))
    return "".join(pieces)


def marker(found):
    if len(found) > 1:
        kept, left = found[:COMBINING_MARKS], len(found) - COMBINING_MARKS
        label = _("+%(count)s marks") % {"count": f"{left:,}"}
        title = escape(_("combining marks on one letter"))
        return f'{kept}<span class="hidden-mark" title="{title}">{escape(label)}</span>'
    name = unicodedata.name(found, "") or _("control character")
    return f'<span class="hidden-mark" title="{escape(name)}">U+{ord(found):04X}</span>'


def render_text(self, tokens, index, options, env):
    return show_hidden(tokens[index].content)


def render_code_inline(self, tokens, index, options, env):
    return f"<code>{show_hidden(tokens[index].content)}</code>"


def render_code_block(self, tokens, index, options, env):
    code, language = tokens[index].content, tokens[index].info.strip().split(" ")[0].lower()
    if language in COLOURED_LANGUAGES and len(code) <= COLOURED_CHARACTERS and not HIDDEN_OR_PILED.search(code):
        lexer = get_lexer_by_name(language, stripnl=False)
        return f'<pre><code class="code">{highlight(code, lexer, HtmlFormatter(nowrap=True))}</code></pre>'
    return f"<pre><code>{show_hidden(code)}</code></pre>"


def render_formula(self, tokens, index, options, env):
    """MathML; a formula that cannot be converted, or that holds hidden characters, as it was written."""
    token = tokens[index]
    written = formulas.as_written(token)
    left = env.get("formula_characters", formulas.FORMULAS_CHARACTERS) - len(written)
    env["formula_characters"] = left
    display = token.markup in ("$$", "\\[")
    mathml = formulas.to_mathml(token.content, display=display) if left >= 0 else None
    if mathml is None or HIDDEN_OR_PILED.search(mathml):
        mathml = f"<code>{show_hidden(written)}</code>"
    return f"<p>{mathml}</p>" if token.block else mathml


def render_image(self, tokens, index, options, env):
    """An image's words and address: loading it would tell its server who reads, and when."""
    token = tokens[index]
    label = _("Image: %(words)s (%(address)s)") % {"words": token.content, "address": token.attrGet("src") or ""}
    return f'<span class="not-loaded">{show_hidden(label)}</span>'


def render_cell_open(self, tokens, index, options, env):
    """A table cell's alignment as a class: the content security policy forbids inline styles."""
    token = tokens[index]
    align = str(token.attrGet("style") or "").removeprefix("text-align:")
    return f'<{token.tag} class="align-{escape(align)}">' if align else f"<{token.tag}>"


def render_link_open(self, tokens, index, options, env):
    return f'<a target="_blank" href="{escape(str(tokens[index].attrGet("href") or ""))}">'


def make_markdown():
    markdown = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": MAX_NESTING})
    # A reference definition shows nothing: an answer could hide text in one.
    markdown.enable(["table", "strikethrough"]).disable("reference")
    formulas.find_formulas(markdown)
    rules = {
        "text": render_text,
        "code_inline": render_code_inline,
        "fence": render_code_block,
        "code_block": render_code_block,
        "image": render_image,
        "th_open": render_cell_open,
        "td_open": render_cell_open,
        "link_open": render_link_open,
        "math_inline": render_formula,
        "math_inline_double": render_formula,
        "math_block": render_formula,
    }
    for name, rule in rules.items():
        markdown.add_render_rule(name, rule)
    return markdown


MARKDOWN = make_markdown()
