"""Fixtures of the training tests: policies of a fake kind, runs, and a supervisor over the fake engine."""

import functools
import itertools
import sys
from pathlib import Path

import pytest

from tests.training.fake_engine import write_checkpoint

FAKE_ENGINE = str(Path(__file__).with_name("fake_engine.py"))


def fake_command(scenario):
    return (sys.executable, FAKE_ENGINE, scenario)


@pytest.fixture(autouse=True)
def data_dir(settings, tmp_path):
    settings.PLUMBLINE_DATA_DIR = tmp_path / "data"
    settings.PLUMBLINE_DATA_DIR.mkdir()
    return settings.PLUMBLINE_DATA_DIR


@pytest.fixture
def make_checkpoint(project, tmp_path):
    """make_checkpoint(role="sft", weights=(…)) -> a verified Checkpoint of `project`, unlike every other."""
    from training import checkpoints

    numbers = itertools.count()

    def make(role="sft", weights=(0.5, 1.0), **fields):
        number = next(numbers)
        path = tmp_path / f"made-{number}"
        write_checkpoint(path, weights, {"number": number})
        return checkpoints.add_checkpoint(project, role=role, path=path, name=f"{role} {number}", copy=True, **fields)

    return make


@pytest.fixture
def sft(make_checkpoint):
    """The project's SFT policy, promoted."""
    from training import checkpoints

    return checkpoints.promote(make_checkpoint("sft"))


@pytest.fixture
def prompts(project):
    """Twelve prompts, some of each pool."""
    from annotation.messages import messages_digest
    from annotation.models import Prompt, PromptSet

    prompt_set = PromptSet.objects.create(project=project, name="stories", file_sha256="0" * 64)
    pools = ["reward"] * 6 + ["ppo"] * 3 + ["eval"] * 3
    made = []
    for position, pool in enumerate(pools, start=1):
        messages = [{"role": "user", "content": f"Tell story {position}."}]
        made.append(
            Prompt.objects.create(
                prompt_set=prompt_set,
                digest=messages_digest(messages),
                messages=messages,
                pool=pool,
                group=f"group {position}",
                position=position,
            )
        )
    return made


@pytest.fixture
def make_run(project, sft, tmp_path, data_dir):
    """make_run(stage="generate", **fields) -> a queued Run whose prompts are an empty file."""
    from training import runs

    def make(stage="generate", **fields):
        (data_dir / "prompts.jsonl").touch()
        inputs = {"policy": sft.digest}
        if stage == "ppo":
            inputs |= {"ref_policy": sft.digest, "reward_model": sft.digest}
        files = {"prompts": ("prompts.jsonl", "0" * 64)}
        run, created = runs.create_run(project, stage=stage, inputs=inputs, files=files, **fields)
        assert created
        return run

    return make


@pytest.fixture
def supervise():
    """supervise(run, "scenario", should_stop=…): one attempt with the fake engine; returns the run, fresh."""
    from training import launcher

    def go(run, scenario, **options):
        launcher.supervise(run.id, owner="test", command=fake_command(scenario), **options)
        run.refresh_from_db()
        return run

    return functools.partial(go)
