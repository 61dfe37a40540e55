"""The engine beside what a user would pick instead: TRL and transformers, on random-weight GPT-2 shapes.

    python benchmarks/engine.py [--quick] [--shapes 12.3M 0.88M] [--works ppo reward-4 reward-9 sft generate]

Two tables a shape. Matched: float32, two networks, attention by torch's fused kernel, on both sides. Best of each
side: every variant of a side that does the same work is measured (they are named below), and its fastest stands; PPO
with the value head on the policy's trunk, which the peer does not have, is a row of its own. Both sides have the same
torch, threads, weights, lengths, epochs and batch, no dropout, no gradient checkpointing; they take turns, each in a
process of its own, and the median over their steps (the first one left out) is given, with the processor seconds beside
the clock, which other work on the machine changes less. A third table says which share of the speed of a large matrix
product, measured in the same process with the same threads and dtype, each of our stages reaches; flops.py has the
formula. The peers live in environments of their own, made on first use
in --cache (2.9 GB): TRL 1.12.0, the last with PPO, and TRL 1.16 with transformers 5.23. Data and models are made anew
in a temporary folder.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from engine_world import make_world
from product import describe_machine, print_table

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = {
    "trl-ppo": ["trl==1.12.0", "transformers==5.14.1"],
    "trl": ["trl==1.16.0", "transformers==5.23.0"],
}
COMMON = ["torch==2.13.0", "accelerate==1.15.0", "datasets==5.2.0", "numpy==2.4.6"]
WORKS = {  # name: (peer's script, its environment, unit, wanted matched, wanted best)
    "ppo": ("trl_ppo.py", "trl-ppo", "episodes/s", 1.3, 3),
    "reward-4": ("trl_reward.py", "trl", "rankings/s", 3, 5),
    "reward-9": ("trl_reward.py", "trl", "rankings/s", 7, 12),
    "sft": ("trl_sft.py", "trl", "tokens/s", 1.3, 2),
    "generate": ("transformers_generate.py", "trl", "tokens/s", 1.5, 3),
}
MATCHED = {"dtype": "float32", "attention": "sdpa", "value": "separate"}
PEER_VARIANTS = [MATCHED, {**MATCHED, "dtype": "autocast"}, {**MATCHED, "dtype": "bfloat16", "attention": "eager"}]
# Rows of like length in each pass, as ours are: TRL can do that for SFT.
GROUPED = [{**variant, "sampling": "group_by_length"} for variant in PEER_VARIANTS]
BFLOAT16 = {**MATCHED, "dtype": "bfloat16"}
SHARED = {**BFLOAT16, "value": "shared"}  # the value head on the policy's trunk: the peer has no such thing
OUR_VARIANTS = [MATCHED, BFLOAT16, SHARED]
TRIALS_SECONDS = 900  # at most, for one measurement


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps of each, one turn")
    parser.add_argument("--turns", type=int, default=2, help="how often the sides take turns")
    parser.add_argument("--shapes", nargs="+", default=["12.3M", "0.88M"], choices=["12.3M", "0.88M"])
    parser.add_argument("--works", nargs="+", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "plumbline-benchmarks")
    arguments = parser.parse_args()
    for name in {WORKS[work][1] for work in arguments.works}:
        make_environment(arguments.cache / name, ENVIRONMENTS[name])
    print(describe_machine(), flush=True)
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory(prefix="plumbline-engine-") as folder:
            make_world(Path(folder), shape)
            found = {work: measure(work, Path(folder), arguments) for work in arguments.works}
        report(shape, found)


def make_environment(path, requirements):
    """A virtual environment with these packages; nothing where a finished one is there."""
    stamp, wanted = path / "requirements.txt", "\n".join([*COMMON, *requirements])
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    print(f"making the environment {path} …", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(path)], check=True)
    subprocess.run([path / "bin" / "pip", "install", "--quiet", *COMMON, *requirements], check=True)
    stamp.write_text(wanted)


def measure(work, folder, arguments):
    """{side: {variant: reading}}, each the median over steps and turns."""
    script, environment, _, _, _ = WORKS[work]
    sides = {
        "ours": (sys.executable, "engine_ours.py", OUR_VARIANTS if work == "ppo" else [MATCHED, BFLOAT16]),
        "peer": (
            arguments.cache / environment / "bin" / "python",
            f"peers/{script}",
            [*PEER_VARIANTS, *GROUPED] if work == "sft" else PEER_VARIANTS,
        ),
    }
    runs = {side: {} for side in sides}
    for _ in range(1 if arguments.quick else arguments.turns):
        for number in range(max(len(variants) for _, _, variants in sides.values())):
            for side, (python, name, variants) in sides.items():
                if number < len(variants):
                    reading = run(python, name, work, variants[number], folder, arguments)
                    runs[side].setdefault(number, []).append(reading)
    return {
        side: {number: summarise(readings) for number, readings in by_variant.items()}
        for side, by_variant in runs.items()
    }


def run(python, script, work, variant, folder, arguments):
    """One process of one side: {units, seconds, cpu_seconds: of each step, megabytes}, or {error}."""
    task = {
        "work": work,
        "folder": str(folder),
        "threads": arguments.threads,
        "steps": 2 if arguments.quick else 4,
        **variant,
    }
    environment = {
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": str(arguments.threads),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "PYTHONPATH": os.pathsep.join(map(str, [HERE, HERE.parent] if script == "engine_ours.py" else [HERE])),
    }
    try:
        done = subprocess.run(
            [python, HERE / script, json.dumps(task)],
            capture_output=True, text=True, env=environment, cwd=folder, timeout=TRIALS_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {TRIALS_SECONDS} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        return {"error": (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]}
    reading = json.loads(lines[-1].removeprefix("RESULT "))
    print(f"  {work} {script} {variant}: {describe(summarise([reading]))}", flush=True)
    return reading


def summarise(readings):
    """{rate, cpu_rate: units a second of the clock and of a processor, medians over steps, megabytes and grown, and of
    our side gflops a processor second and their share of the peak}, or {error}."""
    good = [reading for reading in readings if "error" not in reading]
    if not good:
        return readings[0]
    ours = {}
    if "peak_flops" in good[0]:
        speeds = [(f / s, r["peak_flops"]) for r in good for f, s in zip(r["flops"], r["cpu_seconds"], strict=True)]
        ours["gflops"] = statistics.median(speed for speed, _ in speeds) / 1e9
        ours["share"] = statistics.median(speed / peak for speed, peak in speeds)
    return ours | {
        "rate": statistics.median(u / s for r in good for u, s in zip(r["units"], r["seconds"], strict=True)),
        "cpu_rate": statistics.median(u / s for r in good for u, s in zip(r["units"], r["cpu_seconds"], strict=True)),
        **{name: statistics.median(reading[name] for reading in good) for name in ("megabytes", "grown")},
    }


def describe(reading):
    if "error" in reading:
        return f"failed: {reading['error']}"
    return f"{reading['rate']:.1f}/s, {reading['cpu_rate']:.1f} a processor second, {reading['megabytes']:.0f} MB"


def report(shape, found):
    """The two tables of a shape."""
    for title, column in (("matched: float32, two networks", 3), ("best of each side", 4)):
        rows = [("work", "unit", "ours", "peer", "ratio", "by processor time", "wanted")]
        for work, sides in found.items():
            ours, shared = two_networks(sides["ours"])
            ours, peer = (pick(by_variant, best=column == 4) for by_variant in (ours, sides["peer"]))
            if "error" in ours or "error" in peer:
                rows.append((work, "", describe(ours), describe(peer), "", "", ""))
                continue
            rows.append(line(work, WORKS[work][2], ours, peer, WORKS[work][column]))
            if work == "ppo":
                wanted = "at most 0.7" if column == 3 else "at most 0.5"
                rows.append(sizes("ppo, peak memory", "megabytes", ours, peer, wanted))
                rows.append(sizes("ppo, above what loading takes", "grown", ours, peer, ""))
            if column == 4 and "error" not in shared:
                rows.append(line("ppo, our shared trunk", WORKS[work][2], shared, peer))
        print(f"\n{shape}, {title}")
        print_table(rows)
    print(f"\n{shape}, share of the measured peak")
    print_table([("work", "variant", "GFLOP a processor second", "share", "wanted"), *shares(found)])
    print(flush=True)


def shares(found):
    """Rows of the table of our share of the peak: every variant of every work that could be measured."""
    for work, sides in found.items():
        for number, reading in sides["ours"].items():
            if "share" in reading:
                variant = OUR_VARIANTS[number]
                name = f"{variant['dtype']}, {variant['value']}" if work == "ppo" else variant["dtype"]
                wanted = "at least 0.5" if work == "ppo" else ""
                yield work, name, f"{reading['gflops']:.1f}", f"{reading['share']:.2f}", wanted


def two_networks(ours):
    """(our variants that do what the peer does, the reading of the one with a shared trunk)."""
    number = OUR_VARIANTS.index(SHARED)
    return {key: reading for key, reading in ours.items() if key != number}, ours.get(number, {"error": "not measured"})


def pick(by_variant, *, best):
    good = [reading for reading in by_variant.values() if "error" not in reading]
    if not best or not good:
        return by_variant[0]
    return max(good, key=lambda reading: reading["cpu_rate"])


def sizes(title, name, ours, peer, wanted):
    return (title, "MB", f"{ours[name]:.0f}", f"{peer[name]:.0f}", f"{ours[name] / peer[name]:.2f}", "", wanted)


def line(work, unit, ours, peer, wanted=None):
    return (
        work,
        unit,
        f"{ours['rate']:.3g}",
        f"{peer['rate']:.3g}",
        f"{ours['rate'] / peer['rate']:.2f}",
        f"{ours['cpu_rate'] / peer['cpu_rate']:.2f}",
        f"at least {wanted}" if wanted else "another method",
    )


if __name__ == "__main__":
    main()
