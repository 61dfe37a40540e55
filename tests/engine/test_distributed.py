"""Several processes for one run: they compute what one would, end together, and only the first writes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.engine.conftest import STORIES
from tests.engine.test_reward_model import ranking
from training.engine import __main__ as command
from training.engine import checkpoint, config, ppo, pretrain, reward_model, rundir, sampling, sft
from training.engine.heads import RewardModel, ScalarHead
from training.engine.progress import Interrupted

ROOT = Path(__file__).resolve().parents[2]
STAGES = {"pretrain": pretrain, "sft": sft, "reward_model": reward_model, "ppo": ppo}
OPTIM = {"learning_rate": 1e-3, "eps": 1e-3}  # a large epsilon, or Adam would magnify what rounding leaves of a zero


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture
def settings(folder, make_policy, story_tokenizer):
    """{stage: Config} of two or three steps, with batches that two ranks share unevenly."""
    shape = {"vocab_size": story_tokenizer.vocab_size, "max_positions": 96}
    checkpoint.save_policy(make_policy(**shape, seed=1), story_tokenizer, folder / "policy")
    judge = RewardModel(make_policy(**shape, seed=3), ScalarHead(32, generator=torch.Generator().manual_seed(0)))
    checkpoint.save_reward_model(judge, story_tokenizer, folder / "reward_model")
    (folder / "documents.txt").write_text("\n\n".join(STORIES))
    rows = {
        "demonstrations": [
            {"messages": [{"role": "user", "content": " ".join(text.split()[4:6])},
                          {"role": "assistant", "content": text[: 20 + 3 * number]}], "weight": 1 + number % 3}
            for number, text in enumerate(STORIES[:18])
        ],
        "rankings": [ranking(number, weight=1.0 + number % 2) for number in range(14)],
        "prompts": [{"messages": [{"role": "user", "content": f"a {n} fox"}], "pool": "ppo"} for n in "abcdefg"],
    }  # fmt: skip
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inputs = {name: str(folder / f"{name}.jsonl") for name in rows}
    inputs |= {name: str(folder / name) for name in ("policy", "reward_model")}
    inputs |= {"documents": str(folder / "documents.txt"), "tokenizer": str(folder / "policy")}
    return {
        stage: config.build(
            {
                "run": {"device": "cpu", "threads": 1, "seed": 4},
                "inputs": inputs,
                "pretrain": {"steps": 3, "batch_tokens": 480, "sequence_length": 96, "optim": OPTIM},
                "sft": {"batch_size": 5, "validation_share": 0.2, "optim": OPTIM},
                "reward_model": {"batch_size": 5, "lm_coef": 0.1, "validation_share": 0.2, "optim": OPTIM},
                "ppo": {"iterations": 2, "batch_size": 10, "minibatch_size": 5, "samples_per_prompt": 2,
                        "max_new_tokens": 12, "sample_prompts": 3, "optim": OPTIM},
            }
        )
        for stage in STAGES
    }  # fmt: skip


def start_ranks(commands):
    """A process for each of the commands, which are Python's arguments; the first is the first rank's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(len(commands))
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank, arguments in enumerate(commands)
    ]


@pytest.mark.slow
def test_two_ranks_compute_what_one_process_does(folder, settings):
    """Loss, gradient norm and all other readings of every step, and the weights in the end."""
    jobs, directories = [], {}
    for stage, values in settings.items():
        directories[stage] = rundir.create(folder / f"two-{stage}", config.resolved(values))
        jobs.append([stage, str(directories[stage] / rundir.CONFIG), str(directories[stage])])
    processes = start_ranks([["-m", "tests.engine.rank_driver", json.dumps(jobs)]] * 2)
    alone = {}
    for stage, values in settings.items():
        alone[stage] = rundir.create(folder / f"one-{stage}", config.resolved(values))
        STAGES[stage].train(values, alone[stage])
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    for stage in STAGES:
        mine, theirs = (events(where[stage], "metrics") for where in (alone, directories))
        assert len(theirs) == len(mine) >= 2, "only one rank writes"
        for one, two in zip(mine, theirs, strict=True):
            timings = {name for name in one if "second" in name}
            for name in set(one) - timings:
                assert two[name] == pytest.approx(one[name], rel=2e-3, abs=2e-5), (stage, name)
        load = checkpoint.load_reward_model if stage == "reward_model" else checkpoint.load_policy
        networks = [load(where[stage] / "output").state_dict() for where in (alone, directories)]
        for name, tensor in networks[0].items():
            torch.testing.assert_close(networks[1][name], tensor, atol=1e-4, rtol=1e-3, msg=f"{stage} {name}")


def events(run_dir, kind):
    return [event["values"] for event in rundir.read_events(run_dir)[0] if event["type"] == kind]


def test_it_draws_for_some_prompts_what_it_would_in_a_call_for_all(make_policy):
    policy, prompts = make_policy(), [[5, 6], [7], [8, 9, 10], [11]]
    drawing = {"max_new_tokens": 7, "samples_per_prompt": 3, "seed": 9, "batch_size": 6}
    whole = sampling.generate(policy, prompts, **drawing)
    part = sampling.generate(policy, prompts, **drawing, only=range(1, 4, 2))
    assert [sample.ids for sample in part] == [sample.ids for sample in (*whole[3:6], *whole[9:])]
    assert sampling.generate(policy, prompts, **drawing, only=range(4, 4)) == []


@pytest.fixture
def pretraining(folder, settings):
    """Arguments of a run of two devices that would take hours."""
    saved = folder / "long.json"
    rundir.write_json(saved, config.resolved(settings["pretrain"]))
    return ["pretrain", "--config", str(saved), "run.devices=2", "pretrain.steps=1000000"]


def start(arguments, run_dir, *more):
    process = subprocess.Popen(
        [sys.executable, "-m", "training.engine", *arguments, "--run-dir", str(run_dir), *more],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: process.poll() is not None or events(run_dir, "metrics"))
    assert process.poll() is None, process.stderr.read().decode()
    return process


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def children_of(pid):
    """Process ids of the living children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_every_rank_saves_and_ends_on_sigterm_and_with_its_supervisor(pretraining, folder):
    run_dir = folder / "stopped"
    process = start(pretraining, run_dir)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == rundir.EXIT_INTERRUPTED, errors.decode()
    assert errors.count(b"can be resumed") == 1 and b"Traceback" not in errors, errors.decode()
    (record,) = rundir.checkpoint_records(run_dir)
    assert record.step == len(events(run_dir, "metrics"))

    process = start(pretraining, folder / "orphaned", "--lifeline")
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    process.stdin.close()
    assert process.wait(10) == rundir.EXIT_ORPHANED
    wait_until(lambda: not any(Path(f"/proc/{rank}/cwd").exists() for rank in ranks), seconds=10)
    process.stderr.close()


@pytest.mark.slow
def test_it_refuses_ranks_that_would_not_go_on_from_the_same_place(folder, settings):
    """As on two machines without a shared folder: the second finds no checkpoint and would begin anew."""
    run_dirs = [rundir.create(folder / name, config.resolved(settings["sft"])) for name in ("here", "there")]
    with pytest.raises(Interrupted):
        sft.train(settings["sft"], run_dirs[0], should_stop=lambda: True)
    commands = [
        ["-m", "training.engine", "sft", "--config", str(path / rundir.CONFIG), "--run-dir", str(path)]
        for path in run_dirs
    ]
    processes = start_ranks(commands)
    said = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [rundir.EXIT_USAGE] * 2, said
    assert said[0].startswith("The ranks do not resume from the same checkpoint;") and said[0].count("\n") == 1


@pytest.mark.slow
def test_it_passes_on_what_a_rank_says(pretraining, folder):
    run_dir = folder / "wrong"
    again = subprocess.run(
        [sys.executable, "-m", "training.engine", *pretraining, "--run-dir", str(run_dir), "inputs.documents=/no.txt"],
        cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert again.returncode == rundir.EXIT_USAGE
    assert again.stderr.decode().strip() == "/no.txt cannot be read (No such file or directory)."


def test_it_gives_several_processes_only_to_the_stages_that_share(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command.main(["generate", "--config", "tiny", "--run-dir", str(tmp_path)]) == rundir.EXIT_USAGE
    assert "takes one process" in capfd.readouterr().err
