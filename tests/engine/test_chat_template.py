"""Chat templates: what transformers renders, and nothing that a hostile one tries."""

import concurrent.futures
import os
import signal
import time

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from training.engine import chat_template, tokenizer
from training.engine.chat_template import CHAT_TEMPLATE, TemplateError

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Tell a story about a shy fox\nand a kite."},
    {"role": "assistant", "content": "Once there was a shy fox. Été 漢字 🦊  12 345\t"},
    {"role": "user", "content": " More? "},
]
VALUES = {"messages": CHAT, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>"}
# In the manner of what the families ship: loops with breaks, namespaces, macros, filters, tests, tags, JSON, errors.
TEMPLATES = {
    "ours": CHAT_TEMPLATE,
    "llama 2": """{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'].strip()
        + ' [/INST]' }}{% elif m.role == 'system' %}<<SYS>>{{ m.content }}<</SYS>>{% else %}{{ ' ' ~ m.content
        ~ eos_token }}{% endif %}{% endfor %}""",
    "llama 3": """{%- set date = strftime_now("%Y") %}{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
        {%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim
        + '<|eot_id|>' }}{%- endfor %}{{ date | length }}{{ tools is none }}""",
    "qwen 3": """{%- set ns = namespace(last=messages|length - 1, seen=[]) %}{%- for m in messages[::-1] %}
        {%- set index = (messages|length - 1) - loop.index0 %}{%- if m.role == "user" and not(m.content.startswith('x'))
        %}{%- set ns.last = index %}{%- break %}{%- endif %}{%- endfor %}{{ ns.last }}{%- for m in messages %}{{ m
        .content.split('fox')[-1].lstrip('\\n') }}{%- endfor %}""",
    "macro and filters": """{%- macro line(m, n=1) -%}{{ n }} {{ m | tojson(indent=2) }} {{ m.content | upper | replace(
        'A', 'b') | indent(2) }}{%- endmacro -%}{{ messages | map(attribute='role') | unique | join(', ') }}{% for m in
        messages | selectattr('role', 'eq', 'user') %}{{ line(m, loop.index) }}{% endfor %}""",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}\n",
    "dictionaries": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ dict(a=1).get('a') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_it_renders_as_the_transformers_library_does(name):
    others = {key: value for key, value in VALUES.items() if key != "messages"}
    expected, _ = render_jinja_template([CHAT], chat_template=TEMPLATES[name], **others)
    values = {**VALUES, "tools": None, "documents": None}
    assert chat_template.render(TEMPLATES[name], values) == expected[0]
    assert chat_template.render_here(TEMPLATES[name], values) == expected[0]


ESCAPES = {
    "attributes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "attributes by map": "{{ [''] | map(attribute='__class__') | list | first | attr('mro') }}",
    "attributes by format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "attributes by another format": "{{ ('{0.__class__.__mro__}' | string).format_map({'0': ''}) }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "functions": "{{ raise_exception.__code__ }}{{ strftime_now.__globals__ }}{{ namespace.__init__.__globals__ }}",
    "namespace": "{% set n = namespace(__class__=1) %}{{ n.__class__ }}",
    "namespace later": "{% set n = namespace() %}{% set n.__class__ = 1 %}{{ n.__class__ }}",
    "itself": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "a macro's function": "{% macro f() %}{% endmacro %}{{ f._func.__globals__ }}",
    "the loop": "{% for i in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}{{ os.environ }}",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_it_lets_nothing_out_of_the_sandbox(name):
    try:
        text = chat_template.render(ESCAPES[name], VALUES)
    except TemplateError:
        return
    assert text == ""


HOSTILE = {
    "mutation": "{{ messages.append(1) }}",
    "long range": "{% for i in range(10**9) %}x{% endfor %}",
    "range of ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "range in a filter": "{{ range(99999) | map('string') | map('center', 99999) | join | length }}",
    "repetition": "{{ 'x' * 10**12 }}",
    "power": "{{ 2 ** 10000000000 }}",
    "doubling text": "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling nest": "{% set n = namespace(x=1) %}{% for i in range(60) %}{% set n.x=[n.x] * 2 %}{% endfor %}{{ n.x }}",
    "squaring": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "slow sort": "{% set a = 'x' * 10**7 %}{{ ([a ~ 1, a ~ 2] * 9999) | sort | length }}",
    "filter width": "{{ 'x' | center(10**11) }}",
    "method width": "{{ 'x'.ljust(100000000000) }}",
    "format width": "{{ '%1000000000d' % 1 }}",
    "format field": "{{ '{:1000000000}'.format(1) }}",
    "replacement": "{{ ('x' * 10**6).replace('x', 'y' * 10**6) }}",
    "indent": "{{ {'a': 1} | tojson(indent=10**9) }}",
    "recursion": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "endless text": "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "syntax": "{% for %}",
    "brackets": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "raises": "{{ raise_exception('no system role') }}",
    "undefined": "{{ messages[0].nothing.more }}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_stops_a_hostile_template(name, monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0.2)
    with pytest.raises(TemplateError):
        chat_template.render(HOSTILE[name], VALUES)
    assert chat_template.render("{{ messages[3].content }}", VALUES) == " More? "


ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def processor_seconds(process):
    """What a child has used so far."""
    with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_counts_processor_time_so_that_a_busy_machine_refuses_no_honest_template(monkeypatch):
    monkeypatch.setattr(chat_template, "SECONDS", 0.5)
    renderer = chat_template.Renderer()
    try:
        renderer.render("x", VALUES)
        process, before = renderer.process, processor_seconds(renderer.process)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            found = pool.submit(renderer.render, ENDLESS, VALUES)
            while processor_seconds(process) < before + 0.1:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGSTOP)  # the machine has no time for it
            time.sleep(1.0)
            assert process.poll() is None  # twice the limit by the clock
            os.kill(process.pid, signal.SIGCONT)
            with pytest.raises(TemplateError, match=r"0\.5 seconds of processor time"):
                found.result(timeout=50)
    finally:
        renderer.stop()


def test_it_has_a_generous_limit_by_the_clock_beside(monkeypatch):
    assert chat_template.CLOCK_SECONDS >= 30 * chat_template.SECONDS
    monkeypatch.setattr(chat_template, "CLOCK_SECONDS", 0.3)
    monkeypatch.setattr(chat_template, "SECONDS", 1000.0)
    with pytest.raises(TemplateError, match=r"0\.3 by the clock"):
        chat_template.render(ENDLESS, VALUES)


def test_it_opens_no_file_and_starts_no_process_even_for_what_has_left_the_sandbox(monkeypatch):
    """Rights are gone below Python: a hole in Jinja would lead nowhere."""
    renderer = chat_template.Renderer()
    monkeypatch.setenv("SECRET_KEY", "for nobody")
    try:
        renderer.render("x", VALUES)
        with open(f"/proc/{renderer.process.pid}/limits", encoding="utf-8") as file:
            limits = {line[:26].strip(): line[26:46].strip() for line in file}
        assert limits["Max open files"] == "3"
        assert limits["Max file size"] == limits["Max core file size"] == "0"
        assert limits["Max address space"] == str(chat_template.MEMORY_BYTES)
        with open(f"/proc/{renderer.process.pid}/environ", "rb") as file:
            assert b"for nobody" not in file.read()
    finally:
        renderer.stop()


def test_it_ends_the_child_with_its_parent():
    renderer = chat_template.Renderer()
    renderer.render("x", VALUES)
    process = renderer.process
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    process.stdout.close()


def test_it_starts_another_child_when_one_is_gone():
    renderer = chat_template.Renderer()
    try:
        renderer.render("x", VALUES)
        os.kill(renderer.process.pid, 9)
        renderer.process.wait()
        with pytest.raises(TemplateError, match="was stopped"):
            renderer.render("x", VALUES)
        assert renderer.render("x", VALUES) == "x"
    finally:
        renderer.stop()


def test_it_renders_a_thousand_conversations_within_a_second_of_our_time():
    began = time.process_time()
    for _ in range(1000):
        chat_template.render("{% for m in messages %}{{ m.content }}{% endfor %}", VALUES)
    assert time.process_time() - began < 1


def test_it_says_in_a_sentence_what_is_wrong_with_a_template(story_tokenizer, tmp_path):
    story_tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(tokenizer.TokenizerError, match=r"^The chat template cannot be rendered: no system role; use"):
        tokenizer.load(tmp_path).encode_prompt(CHAT)
    (tmp_path / "chat_template.jinja").write_text("x" * 1_000_001)
    with pytest.raises(tokenizer.TokenizerError, match=r"larger than 1 MB"):
        tokenizer.load(tmp_path)
