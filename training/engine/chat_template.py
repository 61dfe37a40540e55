"""Chat templates: Jinja in an immutable sandbox, with limits on time and memory that nothing in a template can evade.

A template is code from a stranger. Loops can be counted from within, but not a sort of long texts or a list that holds
itself twice, again and again. So a foreign template is rendered by a child process: the kernel ends it after SECONDS of
processor time (a busy machine refuses no honest template) and CLOCK_SECONDS by the clock, refuses it memory beyond
MEMORY_BYTES, and lets it open no file, no socket and no further process. Our own template is rendered here.

What templates find is what the transformers library gives them: `messages`, `add_generation_prompt`, the special
tokens, `tools` and `documents` as none, `raise_exception`, `strftime_now`, the tag `generation`.
"""

import atexit
import contextlib
import datetime
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import jinja2
import jinja2.debug  # Jinja takes it at the first error, when the child can read no file any more
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import jinja2.utils

SECONDS = 2.0  # of processor time for one conversation
MEMORY_BYTES = 1_000_000_000
CHARACTERS = 20_000_000  # of a rendered conversation
CLOCK_SECONDS = 60.0  # by the clock, for one conversation on a busy machine

# ChatML. A message of role `note` is text about the turn before it (a reader's remark in a pretraining text); it stands
# right behind that turn's end, so that a policy learns to know at the end of a turn what could be said about it.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'note' -%}
{{ message['content'] }}
{%- else -%}
{{ ('' if loop.first else '\\n') + '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '\\n<|im_start|>assistant\\n' }}
{%- endif -%}
"""


class TemplateError(ValueError):
    """A template cannot be rendered. The message is the end of a sentence: "The chat template …"."""


def render(template, values):
    """The text of a conversation. values: {name: anything that JSON holds}. Raises TemplateError."""
    if template == CHAT_TEMPLATE:
        return render_here(template, values)
    return _renderer().render(template, values)


def render_here(template, values):
    """Renders in this process, whose limits are the only ones on time and memory."""
    try:
        pieces, size = [], 0
        for piece in _compiled(template).generate(**values):
            size += len(piece)
            if size > CHARACTERS:
                raise TemplateError(f"writes more than {CHARACTERS:,} characters")
            pieces.append(piece)
        return "".join(pieces)
    except TemplateError:
        raise
    except MemoryError:
        raise TemplateError("takes too much memory") from None
    except Exception as error:  # a template may raise anything
        raise TemplateError(f"cannot be rendered: {' '.join(str(error).split())[:200]}") from None


class Renderer:
    """A child process that renders. It ends when this process does, and a new one takes its place when it was ended."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = None

    def render(self, template, values):
        with self.lock:
            if self.process is None:
                self._start()
            limits = {"seconds": SECONDS, "clock_seconds": CLOCK_SECONDS}
            request = {"template": template, "values": values, **limits}
            try:
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
                answer = self.process.stdout.readline()
            except BrokenPipeError:
                answer = b""
            if not answer.endswith(b"\n"):
                self.stop()
                raise TemplateError(
                    f"took more than {SECONDS:g} seconds of processor time, {CLOCK_SECONDS:g} by the clock or "
                    f"{MEMORY_BYTES // 1_000_000:,} MB and was stopped"
                )
        found = json.loads(answer)
        if "error" in found:
            raise TemplateError(found["error"])
        return found["text"]

    def stop(self):
        """Ends the child, if there is one."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self):
        # Nothing of the environment is there to be read, but for where Python finds Jinja.
        kept = {name: os.environ[name] for name in ("PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept,
            start_new_session=True,  # Ctrl-C is for us; the child ends with its pipe
        )
        if self.process.stdout.readline() != b"ready\n":
            self.stop()
            raise TemplateError("cannot be rendered: its process did not start")


@functools.cache
def _renderer():
    renderer = Renderer()
    atexit.register(renderer.stop)
    return renderer


def serve():
    """The child: one request a line, one answer a line, until the pipe closes."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _give_up_rights()
    answers.write(b"ready\n")
    answers.flush()
    for line in requests:
        request = json.loads(line)
        # Nobody handles the signals, so the kernel ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        signal.setitimer(signal.ITIMER_REAL, request["clock_seconds"])
        try:
            answer = {"text": render_here(request["template"], request["values"])}
        except TemplateError as error:
            answer = {"error": str(error)}
        written = json.dumps(answer).encode() + b"\n"
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        answers.write(written)
        answers.flush()


def _give_up_rights():
    # What Python reads on first use must be read now: the zone of strftime_now, codecs, what names an error's place.
    time.tzset()
    for template in (
        "{{ 'é\\n' | upper }}{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}",
        "{{ messages.x.y }}",
        "{% if %}",
    ):
        with contextlib.suppress(TemplateError):
            render_here(template, {})
    limits = {"RLIMIT_AS": MEMORY_BYTES, "RLIMIT_NPROC": 0, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 3}
    for name, most in limits.items():
        number = getattr(resource, name, None)  # not every system has each
        if number is not None:
            resource.setrlimit(number, (most, most))


class _Generation(jinja2.ext.Extension):
    """The tag `generation`: some templates mark an assistant's words with it, for training. Here it only holds them."""

    tags = {"generation"}

    def parse(self, parser):
        number = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=number)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's, without names that begin with an underscore: those lead to what Python is made of."""

    def __init__(*arguments, **named):
        self, *arguments = arguments
        for name in dict(*arguments, **named):
            _refuse_private(name)
        jinja2.utils.Namespace.__init__(self, *arguments, **named)

    def __setitem__(self, name, value):
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name):
    if str(name).startswith("_"):
        raise jinja2.sandbox.SecurityError(f"the name {name!r} is not allowed")


@functools.lru_cache(maxsize=8)
def _compiled(template):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )

    def raise_exception(message):
        raise jinja2.TemplateError(message)

    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "namespace": _Namespace,
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
    }
    return environment.from_string(template)


def _to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    # Jinja's own escapes what HTML would read.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    serve()
