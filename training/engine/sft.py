"""The stage `sft`: supervised fine-tuning of a policy on demonstrations.

Needs inputs.policy and inputs.demonstrations. Only the completion's tokens count, the end-of-turn token included; the
loss is their weighted mean over a whole step, so that splitting a step into smaller passes changes nothing.
"""

import dataclasses
import time

import torch
import torch.nn.functional as F

from training.engine import checkpoint, data, lora, packing
from training.engine.config import ConfigError, require_inputs
from training.engine.distributed import Compute
from training.engine.optim import build_optimizer, learning_rate, take_step
from training.engine.progress import Progress

PASS_TOKENS_GPU = 8192  # in one forward pass
VALIDATIONS = 10  # in a run


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A tokenised demonstration."""

    ids: list[int]
    prompt_length: int
    weight: float
    group: str


def train(config, run_dir, *, resume=None, should_stop=None):
    """Trains for sft.epochs and writes output/, a policy with its tokenizer."""
    require_inputs(config, "sft", "policy", "demonstrations")
    settings = config.sft
    compute = Compute(config.run)
    torch.manual_seed(config.run.seed)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.policy)
    policy = checkpoint.load_policy(config.inputs.policy, device=compute.device)
    lora.attach(policy, config.lora, base=config.inputs.policy, seed=config.run.seed)
    files = [
        data.load_demonstrations(path, turns=settings.turns) for path in data.split_paths(config.inputs.demonstrations)
    ]
    encoded = [encode_demonstrations(tokenizer, found, policy.config.max_positions) for found in files]
    found, left_out = sum(map(len, files)), sum(count for _, count in encoded)
    examples = [example for examples, _ in encoded for example in examples]
    training, validation = data.split_by_group(examples, settings.validation_share, seed=config.run.seed)
    held_out = set(map(id, validation))
    sizes = [sum(id(example) not in held_out for example in examples) for examples, _ in encoded]
    mixture = parse_mixture(settings.mixture, len(files))
    epoch_length = len(data.mixed_order(sizes, mixture, seed=config.run.seed, epoch=0))
    steps_per_epoch = -(-epoch_length // settings.batch_size)
    total_steps = settings.epochs * steps_per_epoch
    optimizer = build_optimizer(policy, settings.optim)

    progress = Progress(config, run_dir, stage="sft", total_steps=total_steps, should_stop=should_stop)
    progress.track(policy=lora.tracked(policy), optimizer=optimizer)
    progress.start(resume, device=compute.device)
    if left_out:
        progress.log(
            f"{left_out} of {found} demonstrations are left out: with their prompts they are longer than "
            f"the policy's {policy.config.max_positions} tokens.",
            level="warning",
        )
    began, tokens, values = time.perf_counter(), 0, {}
    policy.train()
    for step in progress.steps():
        epoch, number = divmod(step, steps_per_epoch)
        order = data.mixed_order(sizes, mixture, seed=config.run.seed, epoch=epoch)
        batch = [training[i] for i in order[number * settings.batch_size : (number + 1) * settings.batch_size]]
        weight = sum(example.weight * (len(example.ids) - example.prompt_length) for example in batch)
        loss = 0.0
        for part in passes(compute.share(batch), compute):
            with compute.autocast():
                part_loss = summed_loss(policy, part)
            (part_loss / weight).backward()
            loss += part_loss.item() / weight
        rate = learning_rate(settings.optim, step, total_steps)
        grad_norm = take_step(optimizer, settings.optim, rate=rate, what=f"step {step + 1}")

        tokens += sum(len(example.ids) for example in batch)
        validate = bool(validation) and validation_due(step + 1, total_steps)
        if progress.metrics_due(step + 1) or validate:
            values = {
                "loss": compute.total({"loss": loss})["loss"],
                "learning_rate": rate,
                "grad_norm": grad_norm,
                "tokens_per_second": tokens / (time.perf_counter() - began),
            }
            if validate:
                values["validation_loss"] = mean_loss(policy, validation, compute)
            progress.metrics(step + 1, always=True, **values)
            began, tokens = time.perf_counter(), 0
        progress.end_step(step + 1)

    digest = progress.write_output(lora.save_policy, policy, tokenizer)
    progress.finish(
        digest=digest, summary={**values, "demonstrations": len(training) + len(validation), "left_out": left_out}
    )


def parse_mixture(text, count):
    """Passes over each of `count` files. Raises ConfigError."""
    if not text:
        return [1.0] * count
    try:
        passes = [float(part) for part in text.split(",")]
    except ValueError:
        passes = []
    if len(passes) != count or not all(0 < number < 1000 for number in passes):
        raise ConfigError(
            f"sft.mixture={text!r} must give a number above 0 and below 1000 for each of the {count} files in "
            "inputs.demonstrations, separated by commas."
        )
    return passes


def encode_demonstrations(tokenizer, demonstrations, most):
    """(examples, how many were left out because prompt and completion pass `most` tokens). Weight 0 is left out too,
    uncounted: it asks for that."""
    examples, left_out = [], 0
    for demonstration in demonstrations:
        prompt = tokenizer.encode_prompt(demonstration.prompt)
        ids = prompt + tokenizer.encode_completion(demonstration.completion)
        if len(ids) > most:
            left_out += 1
        elif demonstration.weight > 0:
            examples.append(
                Example(ids=ids, prompt_length=len(prompt), weight=demonstration.weight, group=demonstration.group)
            )
    if not examples:
        raise data.DataError(
            f"None of the {len(demonstrations)} demonstrations can be learned from: {left_out} are longer than the "
            f"policy's {most} tokens, the others have weight 0."
        )
    return examples, left_out


def passes(examples, compute):
    """The examples in lists of like length, no longer when padded than suits the device."""
    most = data.pass_tokens(compute, on_gpu=PASS_TOKENS_GPU)
    lengths = [len(example.ids) for example in examples]
    return [[examples[i] for i in indices] for indices in data.batches_by_length(lengths, most_tokens=most)]


def summed_loss(policy, examples):
    """Weighted sum of -log p over completion tokens, nats. Examples stand side by side and never see each other."""
    prompts = [example.prompt_length for example in examples]
    lengths = [len(example.ids) for example in examples]
    learned = [length - prompt for length, prompt in zip(lengths, prompts, strict=True)]
    layout = packing.Layout(lengths, device=policy.device)
    ids = packing.flatten([example.ids for example in examples], device=policy.device)
    places = packing.decisions(layout, prompts, learned)
    # Logits are made for the completions alone.
    logits = policy.project(policy.hidden_packed(ids, layout, places)).float()
    losses = F.cross_entropy(logits, ids.index_select(0, places + 1), reduction="none")
    weights = torch.tensor([example.weight for example in examples]).repeat_interleave(torch.tensor(learned))
    return (losses * weights.to(losses.device, non_blocking=True)).sum()


def validation_due(step, total_steps):
    """Whether the validation loss is measured after this many steps: VALIDATIONS times a run, and at its end."""
    return step % max(1, total_steps // VALIDATIONS) == 0 or step == total_steps


@torch.no_grad()
def mean_loss(policy, examples, compute):
    """Weighted mean of -log p over completion tokens, nats."""
    policy.eval()
    total = 0.0
    for part in passes(compute.share(examples), compute):
        with compute.autocast():
            total += summed_loss(policy, part).item()
    policy.train()
    weight = sum(example.weight * (len(example.ids) - example.prompt_length) for example in examples)
    return compute.total({"loss": total})["loss"] / weight
