"""No string that people read escapes gettext: in templates, in scripts, and in Python."""

import ast
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(Path(settings.TEMPLATE_DIR).rglob("*.html"))
SCRIPTS = sorted(path for path in Path(finders.find("js/base.js")).parent.rglob("*.js") if "vendor" not in path.parts)
# The engine speaks to engineers in a terminal; migrations and the demo's texts are data.
LEFT_OUT = {"engine", "migrations", "demo"}
MODULES = sorted(
    path
    for folder in ("annotation", "training", "platform/plumbline")
    for path in (ROOT / folder).rglob("*.py")
    if not LEFT_OUT & set(path.parts)
)
READ_ATTRIBUTES = {"alt", "aria-label", "aria-description", "label", "placeholder", "title"}
# Names: the same in every language.
SAME_EVERYWHERE = {"Plumbline", "sha"}
SILENT = ("script", "style", "code", "kbd")  # what these hold is no sentence
WORD = re.compile(r"[^\W\d_]{2,}")


def untranslated(text):
    return [word for word in WORD.findall(text) if word not in SAME_EVERYWHERE]


class Reader(HTMLParser):
    """The words that stand in a template as they are."""

    def __init__(self):
        super().__init__()
        self.found, self.silent = [], 0

    def handle_starttag(self, tag, attributes):
        self.silent += tag in SILENT
        for name, value in attributes:
            if name in READ_ATTRIBUTES and untranslated(value or ""):
                self.found.append(f"{name}={value!r}")

    def handle_endtag(self, tag):
        self.silent -= tag in SILENT

    def handle_data(self, data):
        if not self.silent and untranslated(data):
            self.found.append(data.strip())


def words_of_template(text):
    text = re.sub(r"\{% comment %\}.*?\{% endcomment %\}|\{#.*?#\}", "", text, flags=re.S)
    text = re.sub(r"\{% block (?:main|body)_class %\}.*?\{% endblock %\}", "", text)
    text = re.sub(r"\{% blocktrans.*?\{% endblocktrans\w* %\}", "", text, flags=re.S)
    # A tag's own quotes would end the attribute that it stands in.
    text = re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", text, flags=re.S)
    reader = Reader()
    reader.feed(text)
    return reader.found


def words_of_script(text):
    """Literals that read like a sentence, and any that become the page's text."""
    text = re.sub(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", "", text, flags=re.S)
    sentences = re.findall(r"""(["'`])([A-Z][a-z]+ [^"'`<>{}\[\]]*?[a-z])\1""", text)
    shown = re.findall(r"""(?:textContent|innerText|title|placeholder)\s*=\s*(["'`])([^"'`]*)\1""", text)
    said = re.findall(r"""(?:announce|notice|toast|alert|confirm)\(\s*(["'`])([^"'`]+)\1""", text)
    labels = re.findall(r"""setAttribute\("(?:aria-label|title)",\s*(["'`])([^"'`]+)\1""", text)
    literals = [re.sub(r"\$\{.*?\}", "", literal) for _quote, literal in sentences + shown + said + labels]
    return [literal for literal in literals if WORD.search(literal)]


def is_literal(node):
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(part, ast.Constant) and WORD.search(part.value) for part in node.values)
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(WORD.search(node.value))


READ_KEYWORDS = {"help_text", "label", "verbose_name", "verbose_name_plural"}
READ_CALLS = {"ValidationError", "PermissionDenied"}
READ_METHODS = {"success", "error", "warning", "info"}


def words_of_module(tree):
    """Literal strings where only translated ones may stand: labels, messages, errors that a page shows."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        for keyword in call.keywords:
            if keyword.arg in READ_KEYWORDS and is_literal(keyword.value):
                yield keyword.value
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        of_messages = isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "messages"
        read = call.args[:1] if name in READ_CALLS else []
        read = call.args[1:2] if (of_messages and name in READ_METHODS) or name == "add_error" else read
        for argument in read:
            yield from (value for value in getattr(argument, "values", [argument]) if is_literal(value))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(settings.TEMPLATE_DIR)))
def test_a_template_translates_all_its_words(path):
    assert words_of_template(path.read_text()) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_no_words_of_its_own(path):
    assert words_of_script(path.read_text()) == []


def test_python_translates_what_people_read():
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in MODULES
        for node in words_of_module(ast.parse(path.read_text()))
    ]
    assert found == []


class TestItsOwnEyes:
    """What the checks above must see, or they would pass for no reason."""

    @pytest.mark.parametrize(
        "text",
        [
            "<p>Hello</p>",
            '<p title="Hello">{{ name }}</p>',
            '{% if x %}<b aria-label="Say {{ y }}">{% endif %}',
            "{% comment %}fine{% endcomment %}<td>Not fine</td>",
        ],
    )
    def test_they_see_words_in_templates(self, text):
        assert words_of_template(text)

    @pytest.mark.parametrize(
        "text", ["<p>{% translate 'Hello' %}</p>", "{% blocktranslate %}Hi{% endblocktranslate %}"]
    )
    def test_they_leave_translated_words(self, text):
        assert words_of_template(text) == []

    @pytest.mark.parametrize(
        "text", ['node.textContent = "saved";', 'view.announce("Next task.")', 'const words = "Saved for later";']
    )
    def test_they_see_words_in_scripts(self, text):
        assert words_of_script(text)

    @pytest.mark.parametrize(
        "text",
        [
            'forms.CharField(label="Name")',
            'messages.success(request, "Saved.")',
            'raise ValidationError({"name": f"{name} is taken"})',
            'form.add_error("name", "Wrong.")',
        ],
    )
    def test_they_see_words_in_python(self, text):
        assert list(words_of_module(ast.parse(text)))
