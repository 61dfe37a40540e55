"""The command line: exit codes, one sentence an error, SIGTERM and the lifeline."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import STORIES
from training.engine import __main__ as command
from training.engine import checkpoint, config, memory, rundir

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pretraining(tmp_path, story_tokenizer, make_policy):
    """Arguments of a pretraining run that would take hours."""
    (tmp_path / "documents.txt").write_text("\n\n".join(STORIES))
    checkpoint.save_policy(make_policy(vocab_size=story_tokenizer.vocab_size), story_tokenizer, tmp_path / "policy")
    return [
        "pretrain", "--config", "tiny", "--run-dir", str(tmp_path / "run"),
        f"inputs.documents={tmp_path / 'documents.txt'}", f"inputs.tokenizer={tmp_path / 'policy'}",
        "pretrain.steps=1000000", "pretrain.batch_tokens=192", "run.device=cpu",
    ]  # fmt: skip


def start(arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "training.engine", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        **options,
    )


def wait_for_metrics(run_dir, process):
    deadline = time.monotonic() + 60
    while not any(event["type"] == "metrics" for event in rundir.read_events(run_dir)[0]):
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_checkpoints_on_sigterm_and_goes_on_from_there(pretraining, tmp_path):
    run_dir = tmp_path / "run"
    process = start(pretraining)
    wait_for_metrics(run_dir, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == rundir.EXIT_INTERRUPTED
    assert b"can be resumed" in errors and b"Traceback" not in errors
    stopped = rundir.read_events(run_dir)[0][-1]
    assert (stopped["type"], stopped["reason"]) == ("stopped", "interrupted")
    (record,) = rundir.checkpoint_records(run_dir)
    more = [f"pretrain.steps={record.step + 1}"]
    assert command.main([*pretraining, *more]) == rundir.EXIT_OK
    started = [event for event in rundir.read_events(run_dir)[0] if event["type"] == "started"]
    assert [event["resumed_from_step"] for event in started] == [0, record.step]


def test_it_ends_at_once_when_its_supervisor_is_gone(pretraining, tmp_path):
    process = start([*pretraining, "--lifeline"], stdin=subprocess.PIPE)
    wait_for_metrics(tmp_path / "run", process)
    process.stdin.close()
    assert process.wait(timeout=5) == rundir.EXIT_ORPHANED
    process.stderr.close()


FAULTS = {
    "an unknown setting": (["ppo.kl_coeff=0.1"], "did you mean ppo.kl_coef?"),
    "a value out of range": (["pretrain.steps=0"], "pretrain.steps=0 must be at least 1"),
    "a number above its own bound": (["run.threads=99999999999"], "run.threads=99999999999 must be at most 1024"),
    "a slip of the hand": (["pretrain.steps=99999999999999999999"], "must be at most 1000000000"),
    "a rate that is no number": (["pretrain.optim.learning_rate=nan"], "must be a finite number"),
    "no file": (["inputs.documents=/nowhere.txt"], "/nowhere.txt cannot be read"),
    "no tokenizer": (["inputs.tokenizer=/nowhere"], "no tokenizer.json"),
    "an input that is not set": (["inputs.tokenizer="], "needs inputs.tokenizer"),
    "no resume checkpoint": (["inputs.resume=/nowhere"], "no checkpoint directory at /nowhere"),
    "rows longer than positions": (["pretrain.sequence_length=4096"], "at most the policy's longest sequence"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_says_what_is_wrong_in_one_sentence(pretraining, tmp_path, capfd, name):
    overrides, sentence = FAULTS[name]
    assert command.main([*pretraining, *overrides]) == rundir.EXIT_USAGE
    errors = capfd.readouterr().err
    assert sentence in errors and errors.count("\n") == 1
    stopped = rundir.read_events(tmp_path / "run")[0][-1]
    assert (stopped["type"], stopped["reason"]) == ("stopped", "error")
    assert sentence in stopped["message"]


def test_it_says_which_configuration_is_missing(tmp_path, capfd):
    assert command.main(["sft", "--config", "nosuch", "--run-dir", str(tmp_path / "run")]) == rundir.EXIT_USAGE
    assert "cannot be read" in capfd.readouterr().err


def test_it_stops_sick_runs_with_a_code_of_their_own(pretraining, tmp_path, monkeypatch):
    from training.engine import pretrain
    from training.engine.progress import GuardStopped

    def sick(*_, **__):
        raise GuardStopped("The loss is not finite at step 3.")

    monkeypatch.setattr(pretrain, "train", sick)
    assert command.main(pretraining) == rundir.EXIT_GUARD
    assert rundir.read_events(tmp_path / "run")[0][-1]["reason"] == "guard"


OUT_OF_MEMORY = {
    "a GPU's": (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "2 rows of 96 tokens"),
    "a CPU's": (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you "
                             "tried to allocate 9 bytes. Error code 12"), "2 rows of 96 tokens"),
}  # fmt: skip


@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_it_says_what_to_lower_where_memory_runs_out(pretraining, tmp_path, monkeypatch, capfd, where):
    from training.engine.transformer import Transformer

    error, shape = OUT_OF_MEMORY[where]

    def full(self, *_):
        raise error

    monkeypatch.setattr(Transformer, "_run", lambda self, input_ids, *rest: full(self))
    more = ["pretrain.micro_batch_tokens=192", "pretrain.batch_tokens=768", "pretrain.sequence_length=96"]
    assert command.main([*pretraining, *more]) == rundir.EXIT_USAGE
    sentence = f"Memory ran out on a batch of {shape}; lower pretrain.micro_batch_tokens (now 192)"
    assert sentence in capfd.readouterr().err


def test_it_goes_on_from_its_own_directory_once_it_has_a_checkpoint(pretraining, tmp_path, monkeypatch):
    from training.engine import pretrain, progress

    given = []
    monkeypatch.setattr(pretrain, "train", lambda *_, resume, **__: given.append(resume))
    earlier = "inputs.resume=earlier"
    assert command.main([*pretraining, earlier]) == rundir.EXIT_OK
    own = tmp_path / "run" / "checkpoints" / "step-00000004"
    monkeypatch.setattr(progress, "newest_checkpoint", lambda run_dir: own)
    assert command.main([*pretraining, earlier]) == rundir.EXIT_OK
    assert given == ["earlier", own]


def test_it_goes_on_after_a_line_that_a_full_disk_cut_short(tmp_path, monkeypatch):
    write = os.write
    rundir.append_event(tmp_path, "log", message="first")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:30]))
        with pytest.raises(OSError, match="No space left on device"):
            rundir.append_event(tmp_path, "log", message="cut")
    events, offset = rundir.read_events(tmp_path)
    assert [event["message"] for event in events] == ["first"], "what is cut short waits"
    rundir.append_event(tmp_path, "log", message="second")
    assert [event["message"] for event in rundir.read_events(tmp_path, offset)[0]] == ["second"]
    assert [event["message"] for event in rundir.read_events(tmp_path)[0]] == ["first", "second"]


def test_it_says_that_the_disk_is_full_in_one_sentence(pretraining, tmp_path, monkeypatch, capfd):
    write, full = os.write, []

    def short(descriptor, line):
        if b'"metrics"' in line:
            full.append(True)
        return write(descriptor, line[: 10 if full else None])

    monkeypatch.setattr(os, "write", short)
    assert command.main(pretraining) == 1
    errors = capfd.readouterr().err
    assert "There is no room left to write" in errors and errors.count("\n") == 1


def test_it_names_a_setting_to_lower_for_every_stage():
    settings = config.load("tiny")
    for stage, key in memory.SETTINGS.items():
        sentence = memory.advice(stage, settings, MemoryError())
        assert f"lower {key} " in sentence and f"the stage {stage}" in sentence
    assert "ppo.batch_size" in memory.ROLLOUT_SETTING and not memory.ran_out(RuntimeError("another fault"))


def test_it_saves_settings_that_repeat_the_run(pretraining, tmp_path):
    assert command.main([*pretraining, "pretrain.steps=2"]) == rundir.EXIT_OK
    first = rundir.read_events(tmp_path / "run")[0][-1]
    saved = tmp_path / "run" / "config.json"
    assert json.loads(saved.read_text())["pretrain"]["steps"] == 2
    again = ["pretrain", "--config", str(saved), "--run-dir", str(tmp_path / "again")]
    assert command.main(again) == rundir.EXIT_OK
    assert rundir.read_events(tmp_path / "again")[0][-1]["digest"] == first["digest"]
