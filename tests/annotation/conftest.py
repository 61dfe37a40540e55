"""Prompts, completions and tasks in the project of tests/conftest.py."""

import io
import json

import pytest

from annotation import assignment, completions, prompts


def policy(letter="a"):
    return {"kind": "checkpoint", "digest": letter * 64, "seed": 0}


@pytest.fixture
def make_prompts(project):
    """make_prompts("one", "two") -> Prompts of a new set, in order."""

    def make(*texts, pool="reward", name="prompts"):
        lines = [json.dumps({"prompt": text, "pool": pool}) for text in texts]
        file = io.BytesIO("\n".join(lines).encode())
        return list(prompts.import_prompts(project, name=name, file=file).prompt_set.prompts.order_by("position"))

    return make


@pytest.fixture
def prompt(make_prompts):
    return make_prompts("Tell a story about a shy fox and a kite.")[0]


@pytest.fixture
def make_completions(project):
    def make(prompt, *texts, generator=None):
        rows = [
            {
                "prompt": prompt,
                "message": {"role": "assistant", "content": text},
                "generator": generator or policy(),
                "prompt_tokens": 9,
                "completion_tokens": 5,
            }
            for text in texts
        ]
        return completions.add_completions(project, rows=rows)

    return make


@pytest.fixture
def make_task(project, make_completions):
    """make_task(prompt, "text", …, overlap=1) -> a Task in the queue."""

    def make(prompt, *texts, **fields):
        texts = texts or ("Once A.", "Once B.", "Once C.", "Once D.")
        return assignment.queue_task(project, prompt=prompt, completions=make_completions(prompt, *texts), **fields)

    return make


@pytest.fixture
def task(make_task, prompt):
    return make_task(prompt)


@pytest.fixture
def make_tasks(make_prompts, make_task):
    """make_tasks(3) -> that many tasks, each of a prompt of its own."""

    def make(count, **fields):
        found = make_prompts(*(f"Tell story {number}." for number in range(count)), name="many")
        return [make_task(prompt, **fields) for prompt in found]

    return make
