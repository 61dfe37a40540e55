"""The prompts, completions and tasks of tests/annotation, under attack."""

from tests.annotation.conftest import (  # noqa: F401
    make_completions,
    make_prompts,
    make_task,
    make_tasks,
    prompt,
    task,
)
