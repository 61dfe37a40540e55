"""Makes the starter again: the small policy that ships with the project, by the project's own engine.

    python -m plumbline.demo.starter [OUTPUT]          (`make starter`; docs/lab_log.md says how long it took)

Tokenizer, pretraining and supervised fine-tuning on the story world's corpus, then the first completions that people
rank. Each step is `python -m training.engine STAGE`; the same machine makes the same bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import training

from . import world

STARTER = Path(training.__file__).resolve().parent / "starter"
FIRST_COMPLETIONS = "starter_completions.jsonl"  # beside the checkpoint, whose manifest names every file in it
PRESET = "starter"
CORPUS_DOCUMENTS = 200_000
TOKENIZER_DOCUMENTS = 20_000
DEMONSTRATIONS = 16_000
FIRST_PROMPTS = 800
SEED = 20


def main(output: Path) -> None:
    """Builds everything in a scratch folder and puts it in place at the end."""
    with tempfile.TemporaryDirectory(prefix="plumbline-starter-") as scratch:
        folder = Path(scratch)
        policy = make_policy(folder)
        completions = make_first_completions(folder, policy)
        install(policy, completions, output)
    print(f"The starter stands in {output}.")


def make_policy(folder: Path) -> Path:
    """Tokenizer, pretraining, supervised fine-tuning; returns the SFT checkpoint's directory."""
    documents = [{"messages": messages} for messages in world.conversations(CORPUS_DOCUMENTS, SEED)]
    write_lines(folder / "corpus.jsonl", documents)
    write_lines(folder / "tokenizer.jsonl", documents[:TOKENIZER_DOCUMENTS])
    write_lines(folder / "demonstrations.jsonl", world.demonstrations(DEMONSTRATIONS, SEED))
    tokenizer = engine(folder, "tokenizer", **{"inputs.documents": folder / "tokenizer.jsonl"})
    base = engine(folder, "pretrain", **{"inputs.documents": folder / "corpus.jsonl", "inputs.tokenizer": tokenizer})
    return engine(folder, "sft", **{"inputs.policy": base, "inputs.demonstrations": folder / "demonstrations.jsonl"})


def make_first_completions(folder: Path, policy: Path) -> Path:
    """What a newcomer ranks first: completions for prompts of the reward pool."""
    prompts = world.prompts("reward")[:FIRST_PROMPTS]
    write_lines(folder / "prompts.jsonl", (as_prompt_row(spec) for spec in prompts))
    output = engine(folder, "generate", **{"inputs.policy": policy, "inputs.prompts": folder / "prompts.jsonl"})
    return output / "completions.jsonl"


def as_prompt_row(spec: world.PromptSpec) -> dict:
    """A line of prompts.jsonl."""
    return {
        "messages": [{"role": "user", "content": spec.text}],
        "pool": spec.pool,
        "group": spec.group,
    }


def engine(folder: Path, stage: str, **settings: Path) -> Path:
    """Runs one stage of the engine in its own process; returns its output directory."""
    run_dir = folder / stage
    overrides = [f"{key}={json.dumps(str(value))}" for key, value in settings.items()]
    command = [sys.executable, "-m", "training.engine", stage, "--config", PRESET, "--run-dir", str(run_dir)]
    subprocess.run([*command, *overrides], cwd=STARTER.parents[1], check=True)
    return run_dir / "output"


def write_lines(path: Path, rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def install(policy: Path, completions: Path, output: Path) -> None:
    """Replaces the starter as a whole: a checkpoint directory, and the first completions beside it."""
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(policy, output)
    shutil.copyfile(completions, output.with_name(FIRST_COMPLETIONS))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else STARTER)
