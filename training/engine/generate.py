"""The stage `generate`: completions of a policy for a file of prompts.

Needs inputs.policy and inputs.prompts. Writes output/completions.jsonl, one completion a line. The draws depend on
run.seed, on a prompt's place in the file and on sampling.batch_size. An interrupted run starts again.
"""

import json
import time

from training.engine import checkpoint, data, sampling
from training.engine.config import require_inputs
from training.engine.distributed import Compute
from training.engine.progress import Progress

COMPLETIONS = "completions.jsonl"


def train(config, run_dir, *, resume=None, should_stop=None):
    """Draws generate.samples_per_prompt completions of each prompt. There is nothing to resume."""
    require_inputs(config, "generate", "policy", "prompts")
    settings, draws = config.generate, config.generate.sampling
    compute = Compute(config.run)
    tokenizer = checkpoint.load_tokenizer_of(config.inputs.policy)
    policy = checkpoint.load_policy(config.inputs.policy, device=compute.device)
    prompts = data.load_prompts(config.inputs.prompts, pool=settings.pool, limit=settings.limit)
    encoded = [(prompt, tokenizer.encode_prompt(prompt.messages)) for prompt in prompts]
    fitting = [(prompt, ids) for prompt, ids in encoded if len(ids) < policy.config.max_positions]
    if not fitting:
        raise data.DataError(
            f"{config.inputs.prompts}: every prompt is longer than the policy's {policy.config.max_positions} tokens."
        )
    generator = {
        "kind": "checkpoint",
        "digest": checkpoint.digest(config.inputs.policy),
        "engine": "plumbline",
        "dtype": str(compute.dtype).removeprefix("torch."),
        "sampling": {
            "max_new_tokens": draws.max_new_tokens,
            "temperature": draws.temperature,
            "top_k": draws.top_k,
            "top_p": draws.top_p,
        },
        "seed": config.run.seed,
        "template_digest": tokenizer.template_digest,
    }
    stop = None
    if settings.stop_strings:
        stop = sampling.StopStrings(tokenizer, settings.stop_strings)
        generator["sampling"]["stop_strings"] = list(settings.stop_strings)
    size = max(1, draws.batch_size // settings.samples_per_prompt)  # prompts at once
    batches = [fitting[start : start + size] for start in range(0, len(fitting), size)]

    progress = Progress(config, run_dir, stage="generate", total_steps=len(batches), should_stop=should_stop)
    progress.start(device=compute.device)
    left_out = len(encoded) - len(fitting)
    if left_out:
        progress.log(
            f"{left_out} of {len(encoded)} prompts are left out: they are longer than the policy's "
            f"{policy.config.max_positions} tokens.",
            level="warning",
        )
    total = ended = tokens = 0
    with (
        checkpoint.new_directory(progress.output, kind="completions") as folder,
        open(folder / COMPLETIONS, "w", encoding="utf-8") as file,
    ):
        for number, batch in enumerate(batches):
            began = time.perf_counter()
            with compute.autocast():
                samples = sampling.generate(
                    policy,
                    [ids for _, ids in batch],
                    max_new_tokens=draws.max_new_tokens,
                    temperature=draws.temperature,
                    top_k=draws.top_k,
                    top_p=draws.top_p,
                    stop_token_ids=tokenizer.stop_ids,
                    stop=stop,
                    samples_per_prompt=settings.samples_per_prompt,
                    seed=(config.run.seed * 1_000_003 + number) % 2**63,
                    batch_size=draws.batch_size,
                )
            for index, sample in enumerate(samples):
                prompt, ids = batch[index // settings.samples_per_prompt]
                line = describe(prompt, ids, index % settings.samples_per_prompt, sample, tokenizer, generator, stop)
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            drawn = sum(len(sample.ids) for sample in samples)
            total, tokens = total + len(samples), tokens + drawn
            ended += sum(sample.finish_reason == "stop" for sample in samples)
            progress.metrics(
                number + 1,
                tokens_per_second=drawn / (time.perf_counter() - began),
                length_mean=drawn / len(samples),
                eos_rate=sum(sample.finish_reason == "stop" for sample in samples) / len(samples),
            )
            progress.end_step(number + 1, resumable=False)
    progress.finish(
        digest=checkpoint.digest(progress.output),
        summary={
            "completions": total,
            "prompts": len(fitting),
            "left_out": left_out,
            "length_mean": tokens / total,
            "eos_rate": ended / total,
        },
    )


def describe(prompt, prompt_ids, index, sample, tokenizer, generator, stop=None):
    """One line of completions.jsonl. token_ids are all that was sampled; the text ends before a stop string."""
    ids = sample.ids[:-1] if sample.ids[-1] in tokenizer.stop_ids else sample.ids
    text = tokenizer.decode(ids)
    text = stop.cut(text) if stop else text
    return {
        "prompt_digest": prompt.digest,
        "index": index,
        "message": {"role": "assistant", "content": text},
        "text": text,
        "token_ids": sample.ids,
        "finish_reason": sample.finish_reason,
        "prompt_tokens": len(prompt_ids),
        "completion_tokens": len(sample.ids),
        "generator": generator,
    }
