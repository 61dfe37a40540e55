"""Files of prompts that are broken, or made to break something: one sentence each, and nothing is written."""

import gzip
import io
import json
import tracemalloc

import pytest

from annotation import prompts
from annotation.models import Prompt, PromptSet

pytestmark = pytest.mark.django_db

GOOD = b'{"prompt": "fine"}\n'


def rows(*lines):
    return GOOD + b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n"


# id: (bytes, what the sentence must say)
REFUSED = {
    "empty file": (b"", "file: is empty"),
    "blank lines": (b"\n \n\r\n", "file: is empty"),
    "BOM only": (b"\xef\xbb\xbf", "file: is empty"),
    "UTF-16": ('{"prompt": "x"}'.encode("utf-16"), "Save it as UTF-8"),
    "UTF-16 without BOM": ('{"prompt": "x"}'.encode("utf-16-le"), "Save it as UTF-8"),
    "invalid UTF-8 on row 500 of 1000": (GOOD * 499 + b'{"prompt": "\xff"}\n' + GOOD * 500, "row 500: byte 13"),
    "NUL in a string": (rows('{"prompt": "a\\u0000b"}'), "row 2, prompt: contains a NUL"),
    "NUL in a group": (rows('{"prompt": "a", "group": "g\\u0000"}'), "row 2, group: contains a NUL"),
    "raw NUL": (rows(b'{"prompt": "a\x00"}'), "row 2: is not valid JSON"),
    "lone surrogate": (rows('{"prompt": "a\\ud800b"}'), "row 2, prompt: contains half of a surrogate pair"),
    "lone surrogate in a key": (rows('{"prompt": "a", "\\ud800": 1}'), "row 2: has a key that is not valid Unicode"),
    "nesting 100k deep": (rows("[" * 100_000), "row 2: is nested too deeply"),
    "nested objects": (rows('{"prompt": "a", "x": ' + '{"a":' * 100_000), "row 2: is nested too deeply"),
    "NaN": (rows('{"prompt": "a", "x": NaN}'), "row 2: NaN is not JSON"),
    "Infinity": (rows('{"prompt": "a", "x": -Infinity}'), "row 2: -Infinity is not JSON"),
    "1e999": (rows('{"prompt": "a", "x": 1e999}'), "row 2: the number 1e999 is too large"),
    "10,000-digit integer": (rows('{"prompt": "a", "x": ' + "9" * 10_000 + "}"), "row 2: a number has 10000 digits"),
    "duplicate keys": (rows('{"prompt": "a", "prompt": "b"}'), "row 2, prompt: stands twice"),
    "truncated last line": (rows('{"prompt": "a')[:-1], "row 2: is not valid JSON at character"),
    "unclosed CSV quote": (b'prompt\nfine\n"never closed\nand on\n', "row 3: is not valid CSV"),
    "10,000 columns": (",".join(f"c{number}" for number in range(10_000)).encode() + b"\n", "more than 100 columns"),
    "10,000 keys": (rows(json.dumps({f"c{number}": 1 for number in range(10_000)})), "row 2: has more than 100 keys"),
    "cells beyond the header": (b"prompt\nfine,more\n", "row 2: has 2 cells, but the header has 1"),
    "no prompt column": (b"text\nfine\n", "row 1, prompt: is not among the columns"),
    "column twice": (b"prompt,prompt\na,b\n", "row 1, prompt: stands twice"),
    "header only": (b"prompt,pool\n", "it has no prompts"),
    "a gzip bomb named .jsonl": (gzip.compress(b" " * 10_000_000), "is a gzip file"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "is a PNG file"),
    "zip": (b"PK\x03\x04rest", "is a zip file"),
    "Parquet magic bytes only": (b"PAR1", "is a Parquet file"),
    "an array": (rows('["prompt"]'), "row 2: must be an object"),
    "a number": (rows("7"), "row 2: must be an object"),
    "prompt is a number": (rows('{"prompt": 7}'), "row 2, prompt: must be a text"),
    "prompt is null": (rows('{"prompt": null}'), "row 2, prompt: must be a text"),
    "prompt is blank": (rows('{"prompt": " \\n"}'), "row 2, prompt: is empty"),
    "no prompt": (rows('{"text": "a"}'), "row 2, prompt: Give either"),
    "prompt and messages": (rows('{"prompt": "a", "messages": []}'), "row 2, prompt: Give either"),
    "messages empty": (rows('{"messages": []}'), "row 2, messages: must be a list of at least one"),
    "unknown role": (
        rows('{"messages": [{"role": "root", "content": "a"}]}'),
        "row 2, messages.0.role: must be one of",
    ),
    "role is a list": (rows('{"messages": [{"role": [], "content": "a"}]}'), "row 2, messages.0.role: must be one of"),
    "ends with the assistant": (
        rows('{"messages": [{"role": "assistant", "content": "a"}]}'),
        "row 2, messages.0.role: must be user",
    ),
    "an image part": (
        rows('{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x"}]}]}'),
        "row 2, messages.0.content.0: must be a part like",
    ),
    "part without text": (
        rows('{"messages": [{"role": "user", "content": [{"type": "text"}]}]}'),
        "row 2, messages.0.content.0.text: must be a text",
    ),
    "extra key in a message": (
        rows('{"messages": [{"role": "user", "content": "a", "__proto__": {}}]}'),
        "row 2, messages.0: has the unknown key “__proto__”",
    ),
    "unknown pool": (rows('{"prompt": "a", "pool": "test"}'), "row 2, pool: must be one of"),
    "pool is a list": (rows('{"prompt": "a", "pool": []}'), "row 2, pool: must be one of"),
    "group is a number": (rows('{"prompt": "a", "group": 7}'), "row 2, group: must be a text"),
    "group too long": (
        rows(json.dumps({"prompt": "a", "group": "g" * 201})),
        "row 2, group: must be a text of 1 to 200",
    ),
    "a prompt of 3 million characters": (rows(json.dumps({"prompt": "a" * 3_000_000})), "row 2, prompt: is 3000000"),
}


def import_bytes(project, content, **fields):
    return prompts.import_prompts(project, name="hostile", file=io.BytesIO(content), **fields)


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_with_one_sentence_and_writes_nothing(project, case):
    content, sentence = REFUSED[case]
    with pytest.raises(prompts.PromptError) as caught:
        import_bytes(project, content)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not PromptSet.objects.exists()
    assert not Prompt.objects.exists()


@pytest.mark.parametrize("case", REFUSED)
def test_it_answers_400_over_http(api_for, admin, project, case):
    from django.core.files.uploadedfile import SimpleUploadedFile

    file = SimpleUploadedFile("hostile", REFUSED[case][0])  # no ending says what it is
    answer = api_for(admin).post("/api/v1/projects/stories/prompt-sets/", {"file": file}, format="multipart")
    assert answer.status_code == 400
    assert REFUSED[case][1] in answer.json()["error"]["message"]
    assert not PromptSet.objects.exists()


class EndlessLine(io.RawIOBase):
    """A line of 200 MB and more, made while it is read."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size if size >= 0 else self.left, self.left)
        self.left -= size
        return b"a" * size


def test_it_refuses_a_line_of_200_mb_in_bounded_memory(project):
    tracemalloc.start()
    try:
        with pytest.raises(prompts.PromptError, match="row 1: the line is longer than 8 MB"):
            prompts.import_prompts(project, name="long", file=EndlessLine(190 * 2**20))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20


def test_it_refuses_a_file_that_never_ends(project):
    with pytest.raises(prompts.PromptError, match="file: is larger than 200 MB"):
        prompts.import_prompts(project, name="endless", file=EndlessLine(10**12))


def test_it_leaves_proto_keys_inert(project):
    report = import_bytes(project, b'{"prompt": "a", "__proto__": {"pool": "eval"}, "constructor": 1}')
    assert report.prompts == 1
    assert report.prompt_set.counts["ignored_columns"] == ["__proto__", "constructor"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_it_stores_cells_that_look_like_formulas_as_they_are(project, start):
    text = f"{start}cmd|' /C calc'!A0"
    import_bytes(project, f'prompt\n"{text}"\n'.encode())
    assert Prompt.objects.get().messages[0]["content"] == text


@pytest.mark.parametrize(
    ("file_name", "stored"),
    [("../../x", "x"), ("..\\..\\x.csv", "x.csv"), ("a\r\nSet-Cookie: b", "aSet-Cookie: b"), ("x" * 999, "x" * 255)],
)
def test_it_keeps_only_a_harmless_file_name(project, file_name, stored):
    assert import_bytes(project, GOOD, file_name=file_name).prompt_set.file_name == stored


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201, None, "a\x00"])
def test_it_refuses_a_name_that_is_none(project, name):
    with pytest.raises(prompts.PromptError, match="name: must be a text"):
        prompts.import_prompts(project, name=name, file=io.BytesIO(GOOD))
