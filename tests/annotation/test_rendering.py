"""Untrusted text comes out inert, whole, and in bounded time."""

import time

import pytest

from annotation.rendering import DISPLAYED_CHARACTERS, message_text, render_markdown, render_message, render_plain

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "img onerror": '<img src=x onerror="alert(1)">',
    "svg onload": "<svg onload=alert(1)>",
    "math nest": "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "noscript nest": '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "style": "<style>@import '//evil.example/x.css'</style>",
    "javascript link": "[a](javascript:alert(1))",
    "encoded javascript link": "[a](java&#115;cript:alert(1)) [b](&#x6A;avascript:alert(1))",
    "data link": "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "remote image": "![words](https://evil.example/pixel.png)",
    "autolink": "<javascript:alert(1)>",
    "textarea end": "</textarea><script>alert(1)</script>",
    "script end": "</script><script>alert(1)</script>",
    "template": "{{constructor.constructor('alert(1)')()}} {% debug %}",
    "attribute break": '[a](https://x.example/" onmouseover="alert(1))',
    "title break": '[a](https://x.example "\\" onmouseover=alert(1)")',
    "table": "|a|b|\n|:-|-:|\n|<b onclick=x>|2|",
    "fence language": '```"><script>alert(1)</script>\nx\n```',
    "code": "```python\nprint('</code><script>alert(1)</script>')\n```",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_it_renders_hostile_text_inert(text):
    html = render_markdown(text).lower()
    tags = html.replace("&lt;", "")
    for live in ("<script", "<img", "<svg", "<style", "<math", "<noscript", "<b ", 'href="javascript', 'href="data'):
        assert live not in tags
    outside_text = "".join(part.split(">")[0] for part in html.split("<")[1:])
    assert " on" not in outside_text
    assert "style=" not in outside_text
    assert "src=" not in outside_text


def test_it_keeps_what_markdown_means():
    html = render_markdown("**bold** and `code`\nnext\n\n- one\n- two\n\n| a | b |\n|---|--:|\n| 1 | 2 |")
    assert "<strong>bold</strong> and <code>code</code><br>" in html
    assert "<li>one</li>" in html
    assert '<td class="align-right">2</td>' in html


def test_it_keeps_headings_below_those_of_the_page():
    assert render_markdown("# One\n\n##### Five") == "<h3>One</h3>\n<h6>Five</h6>\n"


def test_it_colours_code_on_the_server():
    assert '<span class="k">def</span>' in render_markdown("```python\ndef f(): pass\n```")


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


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10_000,
        "![" * 10_000,
        "*a **b " * 2_800,
        "[a](" * 5_000,
        "> " * 10_000,
        "`a``" * 5_000,
        "a\n" * 10_000,
        "x" * 1_000_000,
    ],
    ids=["brackets", "images", "emphasis", "links", "quotes", "backticks", "lines", "a long word"],
)
def test_it_takes_bounded_time(text):
    started = time.process_time()
    render_markdown(text)
    # About 100 ms on an idle machine; the rest is room for a slower one.
    assert time.process_time() - started < 0.5


def test_it_says_how_much_is_not_shown():
    html = render_plain("a" * (DISPLAYED_CHARACTERS + 1_234))
    assert "1,234 further characters are not shown." in html


def test_it_reads_typed_parts():
    message = {"role": "user", "content": [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {}}]}
    assert message_text(message) == "Look:\n\n[image_url, not shown]"
    assert render_message(message)["speaker"] == "Person"
