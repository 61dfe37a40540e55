"""What Markdown means is shown, and nothing that it would drop is lost. Hostile text: tests/hostile/test_texts.py."""

import pytest

from annotation import messages
from annotation.rendering import DISPLAYED_CHARACTERS, message_text, render_markdown, render_message, render_plain
from training.engine import tokenizer


def test_it_keeps_what_markdown_means():
    html = render_markdown("**bold** and `code`\nnext\n\n- one\n- two\n\n| a | b |\n|---|--:|\n| 1 | 2 |")
    assert "<strong>bold</strong> and <code>code</code><br>" in html
    assert "<li>one</li>" in html
    assert '<td class="align-right">2</td>' in html


def test_it_keeps_headings_below_those_of_the_page():
    assert render_markdown("# One\n\n##### Five") == "<h3>One</h3>\n<h6>Five</h6>\n"


def test_it_colours_code_on_the_server():
    assert '<span class="k">def</span>' in render_markdown("```python\ndef f(): pass\n```")


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("$x^2$", "inline"),
        ("\\(x^2\\)", "inline"),
        ("$$x^2$$", "block"),
        ("\\[x^2\\]", "block"),
        ("$$\nx^2\n$$", "block"),
    ],
)
def test_it_sets_formulas_as_mathml(text, display):
    html = render_markdown(f"So\n\n{text}")
    assert f'<math display="{display}"><mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>' in html


def test_it_sets_a_fraction_inside_a_list_and_a_table():
    assert "<li>half <math" in render_markdown("- half $\\frac{1}{2}$")
    assert '<td class="align-right"><math' in render_markdown("|a|\n|-:|\n|$x$|")


@pytest.mark.parametrize("text", ["It costs $5 and $10.", "\\$x$", "`$x$`", "$ x $", "between $5 and 6$7"])
def test_money_and_code_are_no_formulas(text):
    assert "<math" not in render_markdown(text)


@pytest.mark.parametrize(
    "text",
    [
        "$a % hidden$",
        "$\\phantom{hidden}$",
        "$\\def\\a{hidden}$",
        "$\\frac{hidden}$ and $\\frac{$",
        "\\[x\\] hidden",
        "$$x$$ hidden",
        "$$\nx\n$$ hidden",
        "$\\color{white}{\\text{hidden}}$",
        "$" + "x+" * 600 + "\\text{hidden}$",
        "$x$" * 2_000 + " hidden",
    ],
)
def test_it_never_hides_what_a_formula_would_drop(text):
    assert "hidden" in render_markdown(text).replace("<mi>", "").replace("</mi>", "")


@pytest.mark.parametrize("text", ["$\\frac{1$", "$\\frac{<b>}$", "$x^$", "$\\begin{matrix} a$", "$\\left( x$"])
def test_it_shows_a_broken_formula_as_it_was_written(text):
    html = render_markdown(text)
    assert "<math" not in html
    assert text.replace("<b>", "&lt;b&gt;") in html


def test_hidden_characters_inside_a_formula_are_shown():
    assert "U+202E" in render_markdown("$a\u202eb$")
    assert "\u200b" not in render_markdown("$\\text{a&#x200b;b}$")


def test_it_names_an_image_instead_of_loading_it():
    html = render_markdown("![a fox](https://example.org/fox.png)")
    assert "Image: a fox (https://example.org/fox.png)" in html


def test_it_shows_hidden_characters_as_markers():
    html = render_markdown("safe\u202eevil\u200b and `co\u2066de`")
    assert 'title="RIGHT-TO-LEFT OVERRIDE">U+202E</span>' in html
    assert 'title="ZERO WIDTH SPACE">U+200B</span>' in html
    assert "<code>co<span" in html
    assert not set("\u202e\u200b\u2066") & set(html)


def test_it_counts_piled_combining_marks():
    html = render_plain("a" + "\u0301" * 50_000)
    assert html.count("\u0301") == 4
    assert "+49,996 marks" in html


def test_it_shows_a_lone_surrogate():
    assert "U+D800" in render_markdown("a\ud800b")


@pytest.mark.parametrize(
    "text", ["- " * 400 + "deep", "> " * 400 + "deep", "[deep]: /url 'x'"], ids=["lists", "quotes", "definition"]
)
def test_it_never_hides_what_markdown_would_drop(text):
    assert "deep" in render_markdown(text)


def test_it_says_how_much_is_not_shown():
    html = render_plain("a" * (DISPLAYED_CHARACTERS + 1_234))
    assert "1,234 further characters are not shown." in html


def test_it_reads_typed_parts():
    message = {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}}]}
    assert message_text(message) == "Look:\n\n[image_url, not shown]"
    assert render_message(message)["speaker"] == "Person"


def test_it_shows_the_text_that_is_hashed_and_trained():
    parts = [{"type": "text", "text": "One word"}, {"type": "text", "text": "press.\n"}]
    message = {"role": "assistant", "content": parts}
    assert (
        message_text(message) == messages.message_text(message) == tokenizer.message_text(message) == "One wordpress.\n"
    )
