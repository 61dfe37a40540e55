"""Our side of benchmarks/engine.py: the stages' own functions, step by step."""

import contextlib
import types

import torch
from flops import Flops, peak
from measuring import Steps, load_data, read_task

from training.engine import checkpoint, config, ppo, reward_model, rollout, sampling, sections, sft
from training.engine.distributed import Compute
from training.engine.heads import RewardModel, ScalarHead
from training.engine.optim import build_optimizer, take_step

RATE = 1e-6  # so little that lengths stay as they are


def measure_ppo(task, data, compute):
    names = {"policy": "policy", "reward_model": "reward_model", "prompts": "data.json"}
    inputs = {name: f"{task['folder']}/{file}" for name, file in names.items()}
    settings = {
        "batch_size": 128, "minibatch_size": 32, "ppo_epochs": 4, "max_new_tokens": data["new_tokens"],
        "iterations": task["steps"] + 1, "value_network": task["value"], "optim": {"learning_rate": RATE},
    }  # fmt: skip
    if task["value"] == "shared":
        settings["logprobs"] = "captured"
    made = config.build(
        {
            "run": {"device": "cpu", "dtype": task["dtype"], "threads": task["threads"]},
            "inputs": inputs,
            "ppo": settings,
        }
    )
    players, settings = ppo.make_players(made), made.ppo
    trainers = ppo.make_trainers(players, settings)
    prompts = [
        types.SimpleNamespace(token_ids=ids, messages=[{"role": "user", "content": ""}]) for ids in data["prompts"]
    ]
    steps, flops = Steps(), Flops(players.policy.config)
    for iteration in range(settings.iterations):
        batch = ppo.take_prompts(prompts, iteration, settings, seed=0)
        drawn, _ = ppo.roll_out(players, batch, settings, kl_coef=0.05, seed=iteration)
        mask = drawn.trajectories.action_mask
        advantages, returns = rollout.gae(drawn.rewards, drawn.values, mask, 1.0, 0.95)
        ppo.update(players, trainers, drawn, rollout.whiten(advantages, mask), returns, settings, iteration, seed=0)
        lengths = drawn.trajectories.prompt_lengths, drawn.trajectories.completion_lengths
        steps.end(
            settings.batch_size, flops.ppo(*lengths, epochs=settings.ppo_epochs, shared=task["value"] == "shared")
        )
    return steps


def measure_reward(task, data, compute):
    trunk = checkpoint.load_policy(f"{task['folder']}/policy")
    member = RewardModel(trunk, ScalarHead(trunk.config.hidden_size, generator=torch.Generator().manual_seed(0)))
    optim = sections.OptimConfig(learning_rate=RATE)
    optimizer = build_optimizer(member, optim)
    items = [
        reward_model.Comparable(
            prompt=item["prompt"], completions=item["completions"], weight=1.0, group="",
            order=[[index] for index in range(len(item["completions"]))],
        )
        for item in data["rankings"][task["work"].removeprefix("reward-")]
    ]  # fmt: skip
    steps, flops = Steps(), Flops(trunk.config)
    for step in range(task["steps"] + 1):
        batch = [items[(8 * step + place) % len(items)] for place in range(8)]
        reward_model.learn(member, batch, compute=compute, lm_coef=0.0)
        take_step(optimizer, optim, rate=RATE, what="a step")
        steps.end(8, 3 * sum(flops.ranking(len(item.prompt), [*map(len, item.completions)]) for item in batch))
    return steps


def measure_sft(task, data, compute):
    policy = checkpoint.load_policy(f"{task['folder']}/policy")
    optim = sections.OptimConfig(learning_rate=RATE)
    optimizer = build_optimizer(policy, optim)
    examples = [
        sft.Example(ids=[*item["prompt"], *item["completion"]], prompt_length=len(item["prompt"]), weight=1.0, group="")
        for item in data["examples"]
    ]
    steps, flops = Steps(), Flops(policy.config)
    for step in range(task["steps"] + 1):
        batch = [examples[(64 * step + place) % len(examples)] for place in range(64)]
        weight = sum(len(example.ids) - example.prompt_length for example in batch)
        for part in sft.passes(batch, compute):
            with compute.autocast():
                loss = sft.summed_loss(policy, part)
            (loss / weight).backward()
        take_step(optimizer, optim, rate=RATE, what="a step")
        prompts = [example.prompt_length for example in batch]
        learned = [len(example.ids) - example.prompt_length for example in batch]
        steps.end(sum(prompts) + sum(learned), 3 * flops.sequences(prompts, learned))
    return steps


def measure_generate(task, data, compute):
    policy = checkpoint.load_policy(f"{task['folder']}/policy").requires_grad_(False)
    steps, flops = Steps(), Flops(policy.config)
    for step in range(task["steps"] + 1):
        prompts = data["prompts"][64 * step : 64 * (step + 1)]
        with compute.autocast():
            samples = sampling.generate(
                policy, prompts, max_new_tokens=data["new_tokens"],
                stop_token_ids=(data["eos"],), samples_per_prompt=4, seed=step, batch_size=64,
            )  # fmt: skip
        lengths = [len(sample.ids) for sample in samples]
        drawn = [lengths[start : start + 4] for start in range(0, len(lengths), 4)]
        steps.end(sum(lengths), flops.generation([*map(len, prompts)], drawn))
    return steps


def main():
    task = read_task()
    data = load_data(task)
    compute = Compute(sections.RunConfig(device="cpu", dtype=task["dtype"], threads=task["threads"]))
    measures = {"ppo": measure_ppo, "sft": measure_sft, "generate": measure_generate}
    with contextlib.suppress(KeyboardInterrupt):
        steps = measures.get(task["work"], measure_reward)(task, data, compute)
        steps.report(peak_flops=peak(compute.dtype))


if __name__ == "__main__":
    main()
