"""fake_engine.py SCENARIO STAGE --config FILE --run-dir DIR --lifeline: speaks the engine's protocol, learns nothing.

A stand-in at the process edge: it starts in a blink and does what a test wants. Standard library only.
"""

import hashlib
import json
import os
import signal
import struct
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from training.engine import rundir

if __name__ == "__main__":
    SCENARIO, STAGE = sys.argv[1:3]
    RUN_DIR = Path(sys.argv[sys.argv.index("--run-dir") + 1])
    CONFIG = json.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
STEPS = 5
asked_to_stop = threading.Event()


def main():
    signal.signal(signal.SIGTERM, lambda *_: asked_to_stop.set())
    if "--lifeline" in sys.argv:
        threading.Thread(target=die_with_supervisor, daemon=True).start()
    resume = CONFIG["inputs"]["resume"]
    first = json.loads((Path(resume) / "state.json").read_text())["step"] if resume else 0
    tell("started", stage=STAGE, config_digest="0" * 64, total_steps=STEPS, device="cpu", resumed_from_step=first)
    return SCENARIOS[SCENARIO](first)


def succeed(first, weights=(0.5, 1.0)):
    for step in range(first + 1, STEPS + 1):
        tell("metrics", step, values={"loss": 1 / step, "strange": float("nan")})
    tell("samples", STEPS, samples=[{"prompt": "p", "completion": "c", "reference": "r", "score": 1.0}])
    output = RUN_DIR / rundir.OUTPUT
    if STAGE == "generate":
        output.mkdir()
        write_completions(output / "completions.jsonl")
        tell("finished", STEPS, output="output", digest=None, summary={})
    elif STAGE == "evaluate":
        output.mkdir()
        report = {"prompts": 8, "win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.8, "kl_per_completion": 2.5}
        (output / "report.json").write_text(json.dumps(report))
        tell("finished", STEPS, output="output", digest=None, summary=report)
    else:
        config = {"run": CONFIG["run"]["seed"], "stage": STAGE, "policy": CONFIG["inputs"]["policy"]}
        digest = write_checkpoint(output, weights, config)
        tell("finished", STEPS, output="output", digest=digest, summary={"loss": 0.2, "validation_accuracy": 0.7})
    return rundir.EXIT_OK


def write_completions(path):
    """As many different answers as asked for to each prompt of the file."""
    rows = [json.loads(line) for line in Path(CONFIG["inputs"]["prompts"]).read_text().splitlines()]
    digest = json.loads((Path(CONFIG["inputs"]["policy"]) / "config.json").read_text()).get("stage", "start")
    with open(path, "w") as file:
        for row in rows:
            for index in range(CONFIG["generate"]["samples_per_prompt"]):
                text = f"{digest} answers {row['digest'][:8]} ({index})" if index != 3 else ""
                line = {
                    "prompt_digest": row["digest"],
                    "index": index,
                    "message": {"role": "assistant", "content": text},
                    "text": text,
                    "token_ids": [1, 2],
                    "finish_reason": "stop",
                    "prompt_tokens": 3,
                    "completion_tokens": 2,
                    "generator": {"kind": "checkpoint", "digest": "d" * 64, "seed": 0},
                }
                file.write(json.dumps(line) + "\n")


def work_until_told(first, pause=0.02):
    """Saves after every step; goes on for minutes unless it is told to stop."""
    for step in range(first + 1, 6000):
        tell("metrics", step, values={"loss": 1 / step})
        save(step)
        if asked_to_stop.wait(pause):
            tell("stopped", step, reason="interrupted", message="Interrupted; it can be resumed.")
            return rundir.EXIT_INTERRUPTED
    return rundir.EXIT_OK


def work_then_succeed(first):
    """Slow at first, quick once it has been interrupted."""
    return succeed(first) if first else work_until_told(first)


def choose_by_seed(first):
    """For tests that start a whole worker: the run's seed says what is played."""
    return work_then_succeed(first) if CONFIG["run"]["seed"] == 0 else succeed(first)


def ignore_sigterm(first):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def guard(first):
    tell("stopped", 2, reason="guard", message="The entropy fell below 0.02 at step 2; lower the learning rate.")
    return rundir.EXIT_GUARD


def usage(first):
    tell("stopped", reason="error", message="rankings.jsonl line 3 has no ranking; export it again.")
    print("rankings.jsonl line 3 has no ranking; export it again.", file=sys.stderr)
    return rundir.EXIT_USAGE


def crash(first):
    raise RuntimeError("a bug of ours")


def save_then_crash(first):
    save(first + 1)
    raise RuntimeError("a bug of ours")


def fill_disk(first):
    print("OSError: [Errno 28] No space left on device", file=sys.stderr)
    return 1


def write_nonsense(first):
    with open(RUN_DIR / rundir.EVENTS, "ab") as file:
        file.write(b"\x00\x00not json\n")
    return succeed(first)


def end_without_result(first):
    return rundir.EXIT_OK


def make_nan(first):
    return succeed(first, weights=(0.5, float("nan")))


def show_environment(first):
    (RUN_DIR / "environment.json").write_text(json.dumps(dict(os.environ)))
    return rundir.EXIT_OK


SCENARIOS = {
    "succeed": succeed,
    "work": work_until_told,
    "work_then_succeed": work_then_succeed,
    "choose_by_seed": choose_by_seed,
    "ignore_sigterm": ignore_sigterm,
    "guard": guard,
    "usage": usage,
    "crash": crash,
    "save_then_crash": save_then_crash,
    "fill_disk": fill_disk,
    "write_nonsense": write_nonsense,
    "end_without_result": end_without_result,
    "make_nan": make_nan,
    "show_environment": show_environment,
}


def tell(kind, step=0, **values):
    rundir.append_event(RUN_DIR, kind, step=step, **values)


def save(step):
    path = RUN_DIR / rundir.CHECKPOINTS / f"step-{step}"
    digest = write_directory(path, {"state.json": json.dumps({"step": step}).encode()}, kind="state")
    relative = path.relative_to(RUN_DIR).as_posix()
    rundir.record_checkpoint(RUN_DIR, rundir.CheckpointRecord(step=step, path=relative, digest=digest))
    tell("checkpoint", step, path=relative, digest=digest)


def write_checkpoint(path, weights=(0.5, 1.0), config=None):
    """A directory that has a checkpoint's form: two float32 weights."""
    data = struct.pack(f"<{len(weights)}f", *weights)
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(weights)], "data_offsets": [0, len(data)]}}).encode()
    files = {
        "model.safetensors": len(header).to_bytes(8, "little") + header + data,
        "config.json": json.dumps(config or {}).encode(),
    }
    return write_directory(path, files, kind="policy")


def write_directory(path, files, *, kind):
    path.mkdir(parents=True)
    facts = {}
    for name, content in files.items():
        (path / name).write_bytes(content)
        facts[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    manifest = {"schema": "plumbline.manifest/1", "kind": kind, "files": facts}
    (path / "manifest.json").write_text(json.dumps(manifest))
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def die_with_supervisor():
    while os.read(0, 1024):
        pass
    os._exit(rundir.EXIT_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
